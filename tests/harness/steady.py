"""Load at a steady rate from a process of its own, so that neither a test nor another load delays what it measures.

``python -m harness.steady PORT KEY PER_S SECONDS TENANT...``
"""

import asyncio
import bisect
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from harness.load import Connection, Outcome, connect
from harness.reckoning import numbered_call
from harness.service import TenantId

_READY = b"ready\n"
_PIPE = asyncio.subprocess.PIPE
# What was kept waiting before a call was sent is in its way still.
_BEFORE_S = 0.02
_SEEN_WITHIN_S = 0.005


class Answered(NamedTuple):
    """How calls were answered, by status, and how long all of them, and the undisturbed, took: milliseconds, sorted.

    A virtual machine's processors are taken from it now and then by whoever else is on its host. Calls that were under
    way then are disturbed by that, and say little of the service.
    """

    statuses: Counter[int | None]
    taken_ms: list[float]
    undisturbed_ms: list[float]


def percentile(sorted_values: Sequence[float], percent: int) -> float:
    return sorted_values[min(len(sorted_values) * percent // 100, len(sorted_values) - 1)]


def together(rounds: Sequence[Answered]) -> Answered:
    """Return several rounds as one."""
    statuses: Counter[int | None] = Counter()
    for each in rounds:
        statuses += each.statuses
    taken_ms = sorted(taken for each in rounds for taken in each.taken_ms)
    return Answered(statuses, taken_ms, sorted(taken for each in rounds for taken in each.undisturbed_ms))


class Load(NamedTuple):
    """Calls of tenants in turn at a steady rate, whatever becomes of those before."""

    tenants: Sequence[TenantId]
    per_s: float


async def steady_loads(port: int, key: str, seconds: float, *loads: Load) -> list[Answered]:
    """Put loads on a service at the same time, each from a process of its own; all begin once all are ready."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    processes = []
    for load in loads:
        command = ["-m", "harness.steady", str(port), key, str(load.per_s), str(seconds), *map(str, load.tenants)]
        process = await asyncio.create_subprocess_exec(sys.executable, *command, env=environ, stdin=_PIPE, stdout=_PIPE)
        processes.append(process)
    async with asyncio.timeout(seconds + 60):
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == _READY, "the load cannot begin"
        stolen_s: list[float] = []
        watching = asyncio.create_task(_watch_steal(stolen_s))
        outputs = await asyncio.gather(*(process.communicate(b"begin\n") for process in processes))
        watching.cancel()
    return [_answered(json.loads(output), stolen_s) for output, _ in outputs]


def _answered(outcomes: list[tuple[int | None, float, float]], stolen_s: Sequence[float]) -> Answered:
    taken_ms, undisturbed_ms = [], []
    for _, sent_s, answered_s in outcomes:
        taken_ms.append(1000 * (answered_s - sent_s))
        place = bisect.bisect_left(stolen_s, sent_s - _BEFORE_S)
        if place == len(stolen_s) or stolen_s[place] > answered_s + _SEEN_WITHIN_S:
            undisturbed_ms.append(taken_ms[-1])
    return Answered(Counter(status for status, _, _ in outcomes), sorted(taken_ms), sorted(undisturbed_ms))


async def _watch_steal(stolen_s: list[float]) -> None:
    """Note when time was taken from this machine's processors, until cancelled."""
    before = _stolen_ticks()
    while True:
        await asyncio.sleep(_SEEN_WITHIN_S)
        now = _stolen_ticks()
        if now != before:
            stolen_s.append(time.monotonic())
        before = now


def _stolen_ticks() -> int:
    """Return the eighth number of the processors' line (proc(5)), in hundredths of a second."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8])


async def _call_steadily(port: int, key: str, tenants: Sequence[str], per_s: float, seconds: float) -> list[Outcome]:
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    running: list[asyncio.Task[Outcome]] = []

    async def call(number: int) -> Outcome:
        connection = free.pop() if free else await connect(port)
        outcome = await connection.call(number, numbered_call(number, tenants[number % len(tenants)], key))
        free.append(connection)
        return outcome

    began_s = loop.time()
    for number in range(round(per_s * seconds)):
        await asyncio.sleep(max(began_s + number / per_s - loop.time(), 0))
        running.append(asyncio.create_task(call(number)))
    outcomes = await asyncio.gather(*running)
    for connection in free:
        connection.close()
    return outcomes


def _main() -> None:
    port, key, per_s, seconds, *tenants = sys.argv[1:]
    gc.disable()
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    sys.stdin.readline()
    outcomes = uvloop.run(_call_steadily(int(port), key, tenants, float(per_s), float(seconds)))
    # Written whole: standard output may be without a buffer, and take as much as a pipe holds and no more.
    with open(1, "wb", closefd=False) as output:
        output.write(json.dumps([(each.status, each.sent_s, each.answered_s) for each in outcomes]).encode())


if __name__ == "__main__":
    _main()
