"""Instructions per call, counted by callgrind: unlike CPU time, nothing else that the machine does changes them.

Under callgrind a call takes some fifty times as long. What a process does by the clock would be counted with fifty
times as much of it, and is taken off: it is counted in a process that nobody calls.
"""

import asyncio
import re
import shutil
import time
from typing import NamedTuple

from bench.cases import Bench, Row
from bench.load import BODY
from bench.service import TENANT, running
from harness.load import connect, post_text

_CONNECTIONS = 64
_FEW, _MANY = 640, 3200
_LONG_S = 30.0
_LIMITS = "requests_per_minute = 1000000000\nburst = 1000000000\n"
_NO_POLLS = "\n[jobs]\nin_serve = false\n[webhooks]\npoll_s = 60\n"
_COLLECTED = re.compile(r"Collected : (\d+)")


class _Counted(NamedTuple):
    """The instructions of a process, and for how long it was called, or left alone."""

    instructions: int
    seconds: float

    def more_than(self, other: "_Counted") -> "_Counted":
        return _Counted(self.instructions - other.instructions, self.seconds - other.seconds)


def instructions(bench: Bench) -> list[Row]:
    """Those of a call with limits, breaker and guardrails as by default."""
    if shutil.which("valgrind") is None:
        raise RuntimeError("valgrind is needed to count instructions: apt-get install valgrind, or the like")
    # Start and stop are in both counts of each pair.
    called = _count(bench, _MANY).more_than(_count(bench, _FEW))
    idle = _count(bench, 0, _LONG_S).more_than(_count(bench, 0, 0.0))
    per_second = idle.instructions / idle.seconds
    per_call = (called.instructions - per_second * called.seconds) / (_MANY - _FEW)
    return [
        Row(f"Instructions per call, SQLite, {_CONNECTIONS} connections", f"{per_call:,.0f}"),
        Row("… taken off for each second that passes", f"{per_second:,.0f}"),
    ]


def _count(bench: Bench, calls: int, idle_s: float = 0.0) -> _Counted:
    """Count a process that starts, serves so many calls, is left alone for so long, and stops."""
    home = bench.home / f"counted-{calls}-{idle_s:g}"
    # An earlier build may know no sections that a present one has.
    more = _NO_POLLS if bench.plan.build.source is None else ""
    under = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={home / 'callgrind.out'}"]
    port = bench.upstream.port
    with running(bench.plan.build, home, port, limits=_LIMITS, more=more, under=under) as service:
        request = post_text(BODY % TENANT, service.key)
        began_s = time.monotonic()
        asyncio.run(_call(service.port, request, calls // _CONNECTIONS))
        time.sleep(idle_s)
        seconds = time.monotonic() - began_s
    found = _COLLECTED.search((home / "server.log").read_text())
    if found is None:
        raise RuntimeError("valgrind has not told what it counted")
    return _Counted(int(found[1]), seconds)


async def _call(port: int, request: bytes, times: int) -> None:
    if not times:
        return

    async def one() -> None:
        connection = await connect(port)
        for number in range(times):
            outcome = await connection.call(number, request)
            if outcome.status != 200:
                raise RuntimeError(f"a call was answered with {outcome.status}: {outcome.body!r}")
        connection.close()

    await asyncio.gather(*(one() for _ in range(_CONNECTIONS)))
