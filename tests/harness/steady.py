"""Load at a steady rate from a process of its own, so that neither a test nor another load delays what it measures.

``python -m harness.steady PORT KEY PER_S SECONDS TENANT...``
"""

import asyncio
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop

from harness.load import Connection, Outcome, connect
from harness.reckoning import numbered_call
from harness.service import TenantId

_READY = b"ready\n"
_PIPE = asyncio.subprocess.PIPE


@dataclass(frozen=True)
class Answered:
    """How calls were answered, by status, and how long each took, in milliseconds, sorted."""

    statuses: Counter[int | None]
    taken_ms: list[float]

    def percentile_ms(self, percent: int) -> float:
        return self.taken_ms[min(len(self.taken_ms) * percent // 100, len(self.taken_ms) - 1)]


class Load(NamedTuple):
    """Calls of tenants in turn at a steady rate, whatever becomes of those before."""

    tenants: Sequence[TenantId]
    per_s: int


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
        outputs = await asyncio.gather(*(process.communicate(b"begin\n") for process in processes))
    answered = []
    for output, _ in outputs:
        outcomes = json.loads(output)
        answered.append(Answered(Counter(status for status, _ in outcomes), sorted(taken for _, taken in outcomes)))
    return answered


async def _call_steadily(port: int, key: str, tenants: Sequence[str], per_s: int, seconds: float) -> list[Outcome]:
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
    outcomes = uvloop.run(_call_steadily(int(port), key, tenants, int(per_s), float(seconds)))
    print(json.dumps([(each.status, 1000 * (each.answered_s - each.sent_s)) for each in outcomes]))


if __name__ == "__main__":
    _main()
