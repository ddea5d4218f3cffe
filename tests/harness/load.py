"""Load: thousands of completion calls at once, or calls that go on until they are told to stop."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httptools

_PATIENCE_S = 100.0


@dataclass
class Outcome:
    """What became of a call.

    Attributes:
        number: the call's, as given.
        status: None when the connection broke before the whole answer was there.
        retry_after: the answer's header.
        sent_s: when it was sent, and
        answered_s: when its end was known, both on the monotonic clock.
    """

    number: int
    status: int | None
    body: bytes = b""
    retry_after: str | None = None
    sent_s: float = 0.0
    answered_s: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)


def post(body: object, key: str, **headers: str) -> bytes:
    """Return a completion call as it goes over the wire."""
    return post_text(json.dumps(body), key, **headers)


def post_text(body: str, key: str, **headers: str) -> bytes:
    """Return the same of a body that is JSON already."""
    encoded = body.encode()
    lines = [
        "POST /ai/complete HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {key}",
        f"content-length: {len(encoded)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + encoded


class Connection(asyncio.Protocol):
    """A keep-alive connection with one call at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes] | None] | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self.is_open = False
        self.retry_after: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._finish(None)

    async def ask(self, request: bytes) -> tuple[int, bytes] | None:
        """Send a request; return status and body of the answer, or None when the connection broke before."""
        if not self.is_open:
            return None
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self.retry_after = None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    async def call(self, number: int, request: bytes) -> Outcome:
        """Send a request; return what became of it."""
        sent_s = time.monotonic()
        status, body = await self.ask(request) or (None, b"")
        return Outcome(number, status, body, self.retry_after, sent_s, time.monotonic())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None, "an answer that nobody asked for"
        self._parser.feed_data(data)

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_open = False
        self._finish((self._parser.get_status_code(), b"".join(self._body)))

    def _finish(self, answer: tuple[int, bytes] | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


async def connect(port: int) -> Connection:
    """Open a connection; raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def all_at_once(port: int | Sequence[int], requests: Sequence[bytes]) -> list[Outcome]:
    """Open a connection for each request, and when all are open, send all of them in one go.

    Args:
        port: where to; of several, each gets its share.
        requests: numbered from 0.
    """
    ports = _ports(port)
    connections: list[Connection] = []
    try:
        for start in range(0, len(requests), 500):
            numbers = range(start, min(start + 500, len(requests)))
            connections += await asyncio.gather(*(connect(ports[number % len(ports)]) for number in numbers))
        async with asyncio.timeout(_PATIENCE_S):
            calls = (each.call(number, requests[number]) for number, each in enumerate(connections))
            return await asyncio.gather(*calls)
    finally:
        for connection in connections:
            connection.close()


async def until(
    stop: Callable[[], Awaitable[object]],
    port: int | Sequence[int],
    requests: Iterable[tuple[int, bytes]],
    *,
    callers: int,
    patience_s: float = _PATIENCE_S,
) -> list[Outcome]:
    """Have callers send one request after the other until ``stop`` returns; return what became of each sent.

    A caller whose connection breaks opens another; one that cannot connect, or is told 503, waits a little.

    Args:
        port: where to; of several, each gets its share of the callers.
        requests: number and request; endless.
        callers: how many call at the same time.
        patience_s: after which the test has failed.
    """
    ports = _ports(port)
    outcomes: list[Outcome] = []
    numbered = iter(requests)
    has_stopped = asyncio.Event()

    async def call(its_port: int) -> None:
        connection: Connection | None = None
        try:
            while not has_stopped.is_set():
                if connection is None or not connection.is_open:
                    try:
                        connection = await connect(its_port)
                    except OSError:
                        await asyncio.sleep(0.01)
                        continue
                number, request = next(numbered)
                outcomes.append(await connection.call(number, request))
                if outcomes[-1].status == 503:
                    await asyncio.sleep(0.02)
        finally:
            if connection is not None:
                connection.close()

    async with asyncio.timeout(patience_s), asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(call(ports[number % len(ports)]))
        await stop()
        has_stopped.set()
    return outcomes


def _ports(port: int | Sequence[int]) -> Sequence[int]:
    return [port] if isinstance(port, int) else port
