"""Calls at a fixed rate, whether or not earlier ones were answered: what callers wait for."""

import asyncio
import time
from collections.abc import Sequence

import httptools
import msgspec

from bench.load import BODY


class Latencies(msgspec.Struct, frozen=True):
    """Milliseconds from the instant at which a call was due until its whole answer was there."""

    p50_ms: float
    p99_ms: float


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    async def ask(self, request: bytes) -> int:
        assert self.transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._answer is not None
        self._answer.set_result(self._parser.get_status_code())


async def latencies(port: int, key: str, *, per_s: int, duration_s: float, connections: int = 64) -> Latencies:
    """Make calls of tenant 42 at a rate; raises RuntimeError when one was not answered with 200."""
    loop = asyncio.get_running_loop()
    body = (BODY % "42").encode()
    head = f"POST /ai/complete HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    idle = [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(connections)]
    taken: list[float] = []

    async def call(due_s: float) -> None:
        connection = idle.pop()
        status = await connection.ask(request)
        taken.append(time.perf_counter() - due_s)
        idle.append(connection)
        if status != 200:
            raise RuntimeError(f"a call was answered with {status}; a figure from it would mean nothing")

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as calls:
        for number in range(int(per_s * duration_s)):
            due_s = started_s + number / per_s
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            calls.create_task(call(due_s))
    for connection in idle:
        assert connection.transport is not None
        connection.transport.close()
    return Latencies(_percentile_ms(taken, 50), _percentile_ms(taken, 99))


def _percentile_ms(taken_s: Sequence[float], percent: int) -> float:
    ordered = sorted(taken_s)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000
