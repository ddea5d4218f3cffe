"""The load: wrk, which keeps so many connections busy, each with the next call as soon as its last was answered."""

import shutil
import subprocess
from pathlib import Path

import msgspec

# Typical rather than small: about the size of the public contract's example.
BODY = (
    '{"tenant_id": %s, "user_id": 101, "feature_slug": "sales-summary", "model": "gpt-4o-mini", '
    '"system_prompt": "You are a sales analyst. Be brief and precise.", "user_message": "Summarise today\'s sales: '
    "tea 120, coffee 80, bread 200, milk 95, sugar 40. Compare with yesterday: tea 110, coffee 85, bread 190, "
    'milk 90, sugar 41.", "max_tokens": 400}'
)
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
local body = [[{body}]]
wrk.body = body:format("42")
{request}
function done(summary, latency, requests)
  local lost = summary.errors
  io.write(string.format(
    '\\n{{"calls": %d, "failed": %d, "duration_s": %f, "p50_us": %f, "p99_us": %f}}\\n',
    summary.requests, lost.connect + lost.read + lost.write + lost.status + lost.timeout,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
"""
# Tenant ids have as many digits as the one tenant's, so that bodies are as long.
_SPREAD = """
local tenants = {tenants}
function request() return wrk.format(nil, nil, nil, body:format(tostring(math.random(1, tenants)))) end
"""


class Load(msgspec.Struct, frozen=True):
    """What a burst of calls came to.

    Attributes:
        failed: calls without an answer, or with one that is no 200.
        p50_us: the median time to the whole answer; p99_us likewise.
    """

    calls: int
    failed: int
    duration_s: float
    p50_us: float
    p99_us: float


class Caller:
    """Makes calls with wrk.

    Args:
        home: where its script is kept.
        tenants: 1 for calls of tenant 42 alone; more for calls of tenants 1 to so many, at random.
    """

    def __init__(self, home: Path, key: str, tenants: int = 1) -> None:
        request = _SPREAD.format(tenants=tenants) if tenants > 1 else ""
        self._script = home / f"calls-of-{tenants}.lua"
        self._script.write_text(_SCRIPT.format(key=key, body=BODY, request=request))

    def call(self, port: int, *, connections: int, duration_s: float) -> Load:
        """Load a server for some seconds; raises RuntimeError when a call failed."""
        command = [executable(), "-t1", f"-c{connections}", f"-d{duration_s:g}s", "-s", str(self._script)]
        ran = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/ai/complete"], capture_output=True, text=True, check=True
        )
        load = msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Load)
        if load.failed or not load.calls:
            raise RuntimeError(f"{load.failed} of {load.calls} calls failed; a figure from them would mean nothing")
        return load


def executable() -> str:
    """Return where wrk is; raises RuntimeError when it is not installed."""
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError("wrk is needed to make the calls: apt-get install wrk, or the like")
    return found
