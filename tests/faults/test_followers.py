"""A thousand clients follow the events of many tenants, and half of them come and go: each gets each event once.

On PostgreSQL they follow through two notifiers, while the events are written through connections of their own, in
transactions that commit in another order than they began in.
"""

import asyncio
import contextlib
import json
import random
import resource
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness import engines
from harness.following import target, writing
from harness.service import ADMIN_KEY, serving
from integration.test_notifier import Notifier
from tollhouse.events import outbox
from tollhouse.events.model import NewEvent

pytestmark = pytest.mark.slow

CLIENTS = 1000
TENANTS = 100
EVENTS = 10_000
WRITERS = 4


class Client:
    """Follows one tenant over raw HTTP, and takes the position of what it has read along when it comes back."""

    def __init__(self, number, ports):
        self.number = number
        self.tenant = number % TENANTS
        self.comes_and_goes = number % 2 == 0
        self.ports = ports
        self.position = 0
        self.got = []
        self.connections = 0
        self.late_s = []

    async def follow(self, expected, chance):
        while len(self.got) < expected:
            port = self.ports[chance.randrange(len(self.ports))]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self.connections += 1
            head = f"GET {target(tenant_id=self.tenant, after=self.position)} HTTP/1.1\r\nHost: x\r\n"
            writer.write(f"{head}Authorization: Bearer {ADMIN_KEY}\r\n\r\n".encode())
            stay = chance.randint(1, 30) if self.comes_and_goes else expected
            try:
                await self.read(reader, min(expected, len(self.got) + stay))
            finally:
                writer.transport.abort()

    async def read(self, reader, until):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        position = 0
        while len(self.got) < until:
            line = await reader.readline()
            assert line, "the stream ended"
            if line.startswith(b"id: "):
                position = int(line[4:])
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                self.got.append(event["data"]["n"])
                self.late_s.append(time.time() - event["data"]["at_s"])
                self.position = position


def write_events(service, writer):
    """Write a share of the events, in transactions of several."""
    chance = random.Random(writer)
    numbers = list(range(writer, EVENTS, WRITERS))
    while numbers:
        several, numbers = numbers[: (size := chance.randint(1, 8))], numbers[size:]
        with writing(service) as connection:
            for number in several:
                data = {"n": number, "at_s": time.time()}
                outbox.append(
                    connection, NewEvent("a", str(number % TENANTS), "", str(number), data, time.time_ns() // 1_000_000)
                )
                if engines.current() == "postgresql" and chance.random() < 0.1:
                    connection.execute(sa.text("SELECT pg_sleep(0.02)"))


@pytest.mark.timeout(600)
def test_a_thousand_followers_miss_nothing_and_get_nothing_twice(engine, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(serving(tmp_path, ""))
        told_by = [service]
        if engine == "postgresql":
            folders = [tmp_path / str(number) for number in (1, 2)]
            for folder in folders:
                folder.mkdir()
            told_by = [stack.enter_context(Notifier(folder, "", url=service.database_url)) for folder in folders]
        clients = [Client(number, [each.port for each in told_by]) for number in range(CLIENTS)]
        began_s = time.monotonic()
        before_s = sum(cpu_s(each) for each in told_by)

        async def main():
            chance = random.Random(1)
            async with asyncio.TaskGroup() as tasks:
                for client in clients:
                    tasks.create_task(client.follow(EVENTS // TENANTS, chance))
                for writer in range(WRITERS):
                    tasks.create_task(asyncio.to_thread(write_events, service, writer))

        asyncio.run(main())
        took_s = time.monotonic() - began_s
        used_s = sum(cpu_s(each) for each in told_by) - before_s
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    missed = doubled = 0
    for client in clients:
        theirs = set(range(client.tenant, EVENTS, TENANTS))
        missed += len(theirs - set(client.got))
        doubled += len(client.got) - len(set(client.got))
    told = sum(len(client.got) for client in clients)
    late_s = sorted(each for client in clients for each in client.late_s)
    print(
        f"\n{engine}: {CLIENTS} clients over {len(told_by)} processes, {EVENTS} events, {told} told in {took_s:.0f} s, "
        f"{sum(client.connections for client in clients)} connections: missed {missed}, doubled {doubled}; "
        f"CPU {used_s / told * 1e6:.0f} us a told event; late p50 {late_s[len(late_s) // 2] * 1000:.0f} ms, "
        f"p99 {late_s[len(late_s) * 99 // 100] * 1000:.0f} ms"
    )
    assert (missed, doubled, told) == (0, 0, CLIENTS * EVENTS // TENANTS)


def cpu_s(service):
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
