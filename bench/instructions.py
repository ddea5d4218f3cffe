"""Instructions per call, counted by callgrind: unlike CPU time, nothing else that the machine does changes them.

What goes by the clock is left out: under callgrind a call takes some fifty times as long, and would be counted with
fifty times as much of it.
"""

import asyncio
import re
import shutil

from bench.cases import Bench, Row
from bench.load import BODY
from bench.service import TENANT, running
from harness.load import connect, post_text

_CONNECTIONS = 64
_FEW, _MANY = 640, 3200
_LIMITS = "requests_per_minute = 1000000000\nburst = 1000000000\n"
_NO_POLLS = "\n[jobs]\nin_serve = false\n[webhooks]\npoll_s = 60\n"
_COLLECTED = re.compile(r"Collected : (\d+)")


def instructions(bench: Bench) -> list[Row]:
    """Those of a call with limits, breaker and guardrails as by default: of many calls, less of few, start and stop."""
    if shutil.which("valgrind") is None:
        raise RuntimeError("valgrind is needed to count instructions: apt-get install valgrind, or the like")
    per_call = (_count(bench, _MANY) - _count(bench, _FEW)) / (_MANY - _FEW)
    return [Row(f"Instructions per call, SQLite, {_CONNECTIONS} connections", f"{per_call:,.0f}")]


def _count(bench: Bench, calls: int) -> int:
    """Return the instructions of a process that starts, serves so many calls, and stops."""
    home = bench.home / f"counted-{calls}"
    # An earlier build may know no sections that a present one has.
    more = _NO_POLLS if bench.plan.build.source is None else ""
    under = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={home / 'callgrind.out'}"]
    port = bench.upstream.port
    with running(bench.plan.build, home, port, limits=_LIMITS, more=more, under=under) as service:
        request = post_text(BODY % TENANT, service.key)
        asyncio.run(_call(service.port, request, calls // _CONNECTIONS))
    found = _COLLECTED.search((home / "server.log").read_text())
    if found is None:
        raise RuntimeError("valgrind has not told what it counted")
    return int(found[1])


async def _call(port: int, request: bytes, times: int) -> None:
    async def one() -> None:
        connection = await connect(port)
        for number in range(times):
            outcome = await connection.call(number, request)
            if outcome.status != 200:
                raise RuntimeError(f"a call was answered with {outcome.status}: {outcome.body!r}")
        connection.close()

    await asyncio.gather(*(one() for _ in range(_CONNECTIONS)))
