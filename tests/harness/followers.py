"""Crowds that follow events while something happens to those who tell them, and what each of them got."""

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from harness.following import target, writing
from harness.service import ADMIN_KEY, Service
from tollhouse.events import outbox
from tollhouse.events.model import NewEvent
from tollhouse.storage.event_schema import ai_events

_END = "end"
_AGAIN_S = 0.05
_PATIENCE_S = 500.0


class Follower:
    """Follows a tenant as a browser does: when it is cut off, it comes back with the id of the last event it has got.

    Attributes:
        got: the ids of its events, in the order in which they came.
        connections: how often it connected, or tried to.
        cuts: streams that had begun and ended under it.
    """

    def __init__(self, tenant: int, ports: Callable[[], Sequence[int]], chance: random.Random) -> None:
        self.got: list[str] = []
        self.connections = 0
        self.cuts = 0
        self._tenant = tenant
        self._ports = ports
        self._chance = chance
        self._last_event_id = ""
        self._has_ended = False

    async def follow(self) -> None:
        """Follow until the event that is the last one."""
        while not self._has_ended:
            self.connections += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._read_from(self._chance.choice(self._ports()))
            if not self._has_ended:
                await asyncio.sleep(_AGAIN_S)

    async def _read_from(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = f"GET {target(tenant_id=self._tenant, after=0)} HTTP/1.1\r\nHost: x\r\n"
            if self._last_event_id:
                head += f"Last-Event-ID: {self._last_event_id}\r\n"
            writer.write(f"{head}Authorization: Bearer {ADMIN_KEY}\r\n\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            if answer.startswith(b"HTTP/1.1 503 "):
                return
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            self.cuts += 1
            await self._read_events(reader)
            self.cuts -= self._has_ended
        finally:
            writer.transport.abort()

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        found_id, data = "", b""
        while line := await reader.readline():
            if line.startswith(b"id: "):
                found_id = line[4:].strip().decode()
            elif line.startswith(b"data: "):
                data = line[6:]
            elif line == b"\n":
                # An event counts once it is whole, as for a browser.
                self._last_event_id = found_id or self._last_event_id
                if data:
                    event = json.loads(data)
                    self.got.append(event["id"])
                    if event["subject"] == _END:
                        self._has_ended = True
                        return
                found_id, data = "", b""


class Outcome(msgspec.Struct, frozen=True):
    """What a crowd got.

    Attributes:
        events: how many there were.
        told: how many events were told, to all together.
        cuts: streams that ended before what they were for.
        missed: events that a follower did not get though they were its tenant's.
        doubled: those it got more than once.
        disordered: followers who got theirs in another order than they have.
    """

    events: int
    told: int
    connections: int
    cuts: int
    missed: int
    doubled: int
    disordered: int

    @property
    def is_exact(self) -> bool:
        return not (self.missed or self.doubled or self.disordered)


class Writers:
    """Write events beside the service until they are told to stop, and go on when the database comes back."""

    def __init__(self, service: Service, tenants: Sequence[int], count: int = 2) -> None:
        self.may_write = threading.Lock()
        self._service = service
        self._tenants = tenants
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, and write the last event of each tenant."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._append([(tenant, _END) for tenant in self._tenants])

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        written = 0
        while not self._is_over.is_set():
            new = range(written, written + chance.randint(1, 8))
            several = [(chance.choice(self._tenants), f"{number}-{each}") for each in new]
            # What was being written when the database went away may be there or not; the table says so in the end.
            with contextlib.suppress(sa.exc.OperationalError):
                self._append(several)
            written += len(several)
            time.sleep(chance.random() * 0.01)

    def _append(self, several: Sequence[tuple[int, str]]) -> None:
        now_ms = time.time_ns() // 1_000_000
        events = [NewEvent("a", str(tenant), "", subject, {"n": 1}, now_ms) for tenant, subject in several]
        with self.may_write, writing(self._service) as connection:
            outbox.append_all(connection, events)


def follow_through(
    service: Service,
    ports: Callable[[], Sequence[int]],
    disturb: Callable[[Writers], None],
    *,
    tenants: Sequence[int],
    clients: int,
) -> Outcome:
    """Have a crowd follow while events are written and something is done to those who tell them.

    Args:
        service: whose database it is.
        ports: where events are told just now.
        disturb: runs beside it all; once it returns, no more is written.
    """
    chance = random.Random(7)
    followers = [Follower(tenants[number % len(tenants)], ports, chance) for number in range(clients)]
    writers = Writers(service, tenants)

    def happen() -> None:
        writers.start()
        try:
            disturb(writers)
        finally:
            writers.stop()

    async def main() -> None:
        async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as tasks:
            for follower in followers:
                tasks.create_task(follower.follow())
            tasks.create_task(asyncio.to_thread(happen))

    asyncio.run(main())
    return _reckon(service, followers, tenants)


def _reckon(service: Service, followers: Sequence[Follower], tenants: Sequence[int]) -> Outcome:
    wanted = sa.select(ai_events.c.tenant_id, ai_events.c.event_id).order_by(ai_events.c.position)
    by_tenant: dict[str, list[str]] = {str(tenant): [] for tenant in tenants}
    with writing(service) as connection:
        rows: Sequence[Any] = connection.execute(wanted).all()
    for tenant_id, event_id in rows:
        if tenant_id in by_tenant:
            by_tenant[tenant_id].append(event_id)
    missed = doubled = disordered = 0
    for follower in followers:
        theirs = by_tenant[str(follower._tenant)]
        missed += len(set(theirs) - set(follower.got))
        doubled += sum(count - 1 for count in Counter(follower.got).values())
        disordered += list(dict.fromkeys(follower.got)) != [each for each in theirs if each in set(follower.got)]
    return Outcome(
        events=sum(map(len, by_tenant.values())),
        told=sum(len(follower.got) for follower in followers),
        connections=sum(follower.connections for follower in followers),
        cuts=sum(follower.cuts for follower in followers),
        missed=missed,
        doubled=doubled,
        disordered=disordered,
    )
