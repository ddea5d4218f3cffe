"""The control plane's own conduct, in this process: defects, outages, and what it loads."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import structlog

from tollhouse.admin.service import Administration
from tollhouse.apps.control import control_plane
from tollhouse.apps.health import Health
from tollhouse.audit.uses import NotableUses
from tollhouse.errors import Unavailable
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.clock import SystemClock
from tollhouse.telemetry.metrics import Metrics

KEY = "an-admin-key-of-the-configuration"


class FailingAdministration(Administration):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def put_tenant(self, *_: Any) -> Any:
        raise self.error

    async def keys(self) -> Any:
        raise self.error


class NeverReady(Health):
    def __init__(self) -> None:
        """Nothing is needed to say no."""

    async def is_ready(self) -> bool:
        return False


def ask(
    method: str, path: str, body: bytes = b"", *, administration: Any = None
) -> tuple[int, dict[bytes, bytes], Any]:
    nothing: Any = None
    keyring = Keyring(nothing, b"p" * 32)
    keyring.trust(KEY, Principal("admin", "admin", "super-admin", None))
    app = control_plane(
        administration=administration,
        usage=nothing,
        reconciliation=nothing,
        jobs=nothing,
        dead_letters=nothing,
        schedules=nothing,
        listing=nothing,
        notifications=nothing,
        webhooks=nothing,
        keyring=keyring,
        clock=SystemClock(),
        metrics=Metrics(),
        health=NeverReady(),
        uses=NotableUses(nothing, SystemClock(), nothing),
    )
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"authorization", f"Bearer {KEY}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def serve() -> None:
        await app(scope, receive, send)

    asyncio.run(serve())
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def test_a_defect_is_told_by_its_request_id_and_logged_without_the_body():
    body = b'{"name": "a very private name"}'
    with structlog.testing.capture_logs() as logs:
        status, headers, told = ask(
            "PUT", "/admin/tenants/42", body, administration=FailingAdministration(RuntimeError("oh no"))
        )
    assert (status, told["error"]) == (500, "ai_internal_error")
    assert "oh no" not in told["message"]
    assert told["request_id"].encode() == headers[b"x-request-id"]
    (entry,) = logs
    assert (entry["log_level"], entry["request_id"], entry["path"]) == (
        "error",
        told["request_id"],
        "/admin/tenants/42",
    )
    assert "private" not in repr(entry)
    assert KEY not in repr(entry)


def test_an_outage_is_told_with_a_time_to_come_back():
    outage = Unavailable("the ledger cannot be written just now", retry_after_s=1)
    status, headers, told = ask("GET", "/admin/keys", administration=FailingAdministration(outage))
    assert (status, told["error"], headers[b"retry-after"]) == (503, "ai_unavailable", b"1")
    status, headers, told = ask("GET", "/readyz")
    assert (status, told["error"], headers[b"retry-after"]) == (503, "ai_unavailable", b"1")


def test_neither_pydantic_nor_the_prices_package_is_loaded():
    """Both are installed, and would take more memory than the whole control plane."""
    code = (
        "import sys, tollhouse.wiring.service\n"
        "from tollhouse.apps.control import control_plane\n"
        "nothing = object()\n"
        "control_plane(administration=nothing, usage=nothing, reconciliation=nothing, listing=nothing,"
        " jobs=nothing, dead_letters=nothing, schedules=nothing,"
        " notifications=nothing, webhooks=nothing, keyring=nothing, clock=nothing, metrics=nothing,"
        " health=nothing, uses=nothing)\n"
        "print([name for name in ('pydantic', 'genai_prices', 'polyfactory', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
