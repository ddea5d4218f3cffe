"""Events told to many who follow: what each of them holds in memory, what telling costs, and how late it is."""

import asyncio
import http.client
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import msgspec
import sqlalchemy as sa
import uvloop

from bench import nginx
from bench.arithmetic import median_ratio, significant
from bench.cases import Bench, Plan, Row
from bench.processes import cpu_s, resident_bytes, stop
from bench.service import ADMIN_KEY, TENANT
from tollhouse.events import outbox
from tollhouse.events.cloudevents import cloud_event
from tollhouse.events.model import Event, NewEvent

FOLLOWERS = 1000
_EVENTS_PER_S = 10
_CONNECTS_WITHIN_S = 3.0
_PATIENCE_S = 60.0
_MARK = b'"at_ns":'
_TYPE, _SUBJECT = "ai.job.completed", "job_019d463e967bcab545b8f596835d"

Tell = Callable[[], None]
"""Has one event told to everybody, which holds the moment of its telling."""


class Telling(msgspec.Struct):
    """What became of the events of one round.

    Attributes:
        late_us: from the telling of each event to its arrival, for each who follows.
        cpu_us: of the process, for each event at each who follows.
        held_bytes: by the process for each who follows.
        idle_percent: of a core, used while nothing happens.
    """

    late_us: list[float] = []
    cpu_us: float = 0.0
    held_bytes: float = 0.0
    idle_percent: float = 0.0


class _Reader(asyncio.Protocol):
    def __init__(self, telling: Telling, request: bytes) -> None:
        self.telling = telling
        self._request = request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        position = data.find(_MARK)
        while position >= 0:
            stamp = data[position + len(_MARK) : data.find(b"}", position)]
            self.telling.late_us.append((now_ns - int(stamp)) / 1000)
            position = data.find(_MARK, position + 1)


def followers(bench: Bench) -> list[Row]:
    """1,000 who follow one process, beside a bare server on uvloop that writes the same bytes to as many."""
    bare, told = [], []
    for number in range(bench.plan.rounds):
        with _bare() as (port, pid):
            bare.append(_measured(port, pid, partial(_post, port), bench.plan))
        name = f"followers-{number}"
        service = bench.service(name)
        database = bench.home / name / "tollhouse.db"
        told.append(_measured(service.port, service.pid, partial(_write, database), bench.plan))
    what = f"{FOLLOWERS:,} who follow one process"
    ratio = median_ratio([each.cpu_us for each in told], [each.cpu_us for each in bare])
    return [
        Row(f"{what}: memory for each", _beside(told, bare, lambda each: each.held_bytes / 1024, "KiB")),
        Row(
            "… CPU for each event at each of them over a bare server's",
            f"**{significant(ratio)}** ({_middle(told, lambda each: each.cpu_us)} µs over "
            f"{_middle(bare, lambda each: each.cpu_us)} µs)",
        ),
        Row("… CPU while nothing happens", _beside(told, bare, lambda each: each.idle_percent, "% of a core")),
        *(
            Row(f"… from an event's commit to its arrival, {name}", _beside(told, bare, _late(percent), "ms"))
            for name, percent in (("p50", 50), ("p99", 99))
        ),
    ]


def _late(percent: int) -> Callable[[Telling], float]:
    return lambda telling: quantiles(telling.late_us, n=100)[percent - 1] / 1000


def _middle(tellings: list[Telling], figure: Callable[[Telling], float]) -> str:
    return significant(median(map(figure, tellings)))


def _beside(told: list[Telling], bare: list[Telling], figure: Callable[[Telling], float], unit: str) -> str:
    return f"**{_middle(told, figure)} {unit}** (bare {_middle(bare, figure)} {unit})"


def _measured(port: int, pid: int, tell: Tell, plan: Plan) -> Telling:
    return uvloop.run(_follow(port, pid, tell, plan.duration_s))


async def _follow(port: int, pid: int, tell: Tell, duration_s: float) -> Telling:
    telling = Telling()
    lines = [f"GET /events?tenant_id={TENANT} HTTP/1.1", "host: x", f"authorization: Bearer {ADMIN_KEY}", "", ""]
    request = "\r\n".join(lines).encode()
    warm_up = [await _connect(Telling(), request, port) for _ in range(20)]
    await _tell_and_wait(tell, warm_up[0].telling, 1, 1)
    before_bytes = resident_bytes(pid)
    readers = []
    for _ in range(FOLLOWERS):
        readers.append(await _connect(telling, request, port))
        await asyncio.sleep(_CONNECTS_WITHIN_S / FOLLOWERS)
    await _tell_and_wait(tell, telling, 1, FOLLOWERS)
    telling.held_bytes = (resident_bytes(pid) - before_bytes) / FOLLOWERS
    before_s = cpu_s(pid)
    await asyncio.sleep(duration_s)
    telling.idle_percent = (cpu_s(pid) - before_s) / duration_s * 100
    telling.late_us.clear()
    count = round(duration_s * _EVENTS_PER_S)
    before_s = cpu_s(pid)
    await _tell_and_wait(tell, telling, count, FOLLOWERS * count)
    telling.cpu_us = (cpu_s(pid) - before_s) / (FOLLOWERS * count) * 1e6
    for reader in (*readers, *warm_up):
        reader.transport.abort()
    return telling


async def _tell_and_wait(tell: Tell, telling: Telling, count: int, arrivals: int) -> None:
    before = len(telling.late_us)
    for _ in range(count):
        await asyncio.to_thread(tell)
        await asyncio.sleep(1 / _EVENTS_PER_S)
    async with asyncio.timeout(_PATIENCE_S):
        while len(telling.late_us) - before < arrivals:
            await asyncio.sleep(0.01)


async def _connect(telling: Telling, request: bytes, port: int) -> _Reader:
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(lambda: _Reader(telling, request), "127.0.0.1", port)
    return reader


def _data() -> dict[str, object]:
    return {"job_id": _SUBJECT, "status": "complete", "attempts": 1, "at_ns": time.monotonic_ns()}


def _write(database: Path) -> None:
    """Write an event beside the service."""
    raw = sqlite3.connect(database, isolation_level=None, timeout=20)
    engine = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=sa.StaticPool, isolation_level="AUTOCOMMIT")
    with closing(raw), engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        event = NewEvent(_TYPE, str(TENANT), "101", _SUBJECT, _data(), time.time_ns() // 1_000_000)
        outbox.append(connection, event)
        connection.exec_driver_sql("COMMIT")


def _post(port: int) -> None:
    """Have the bare server tell the same."""
    data = json.dumps(_data(), separators=(",", ":"))
    event = Event(17, f"evt_{'0' * 28}", _TYPE, str(TENANT), "101", _SUBJECT, data, "2026-04-10T12:00:00.123Z")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/", b"id: 17\ndata: " + cloud_event(event) + b"\n\n")
        connection.getresponse().read()


@contextmanager
def _bare() -> Iterator[tuple[int, int]]:
    port = nginx.free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.telling", str(port)], text=True)
    try:
        nginx.await_port(port)
        yield port, process.pid
    finally:
        stop(process)
