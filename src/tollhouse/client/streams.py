"""Connections of the asyncio client: a bounded pool, on one event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex

from tollhouse.client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NotConnected,
    PoolExhausted,
    TrustRefused,
    UnexpectedAnswer,
)
from tollhouse.client.request import Request
from tollhouse.client.settings import Settings
from tollhouse.client.tls import is_mistrust, tls_context
from tollhouse.client.wire import READ_BYTES, Head, Wire

if TYPE_CHECKING:
    from ssl import SSLContext

# So long the first address of a host is tried alone (RFC 8305 §8).
_HAPPY_EYEBALLS_DELAY_S = 0.25

Left = Callable[[], float]
"""Tells for how many seconds an answer is still waited for."""


class _Reader(asyncio.StreamReader):
    """Notes whether anything comes, the end included."""

    is_untouched = True

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.is_untouched = False
        super().feed_data(data)

    def feed_eof(self) -> None:
        self.is_untouched = False
        super().feed_eof()


class _Connection:
    """One connection, with one exchange at a time."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.wire = Wire()
        self.is_reused = False
        self.idle_since_s = 0.0
        self._reader = reader
        self._writer = writer
        self._is_broken = False

    async def exchange(self, request: Request) -> Head:
        """Send a request, and return the head of its answer."""
        try:
            self._writer.write(self.wire.request(request))
            await self._writer.drain()
        except OSError:
            # It may have been answered all the same, by one that did not want to read it all.
            self._is_broken = True
        while (head := self.wire.head()) is None:
            await self.receive()
        return head

    async def receive(self) -> None:
        """Take what comes next."""
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise ConnectionLost(f"the connection broke before the answer was whole: {error}") from error
        self.wire.feed(data)

    def is_reusable(self) -> bool:
        return not self._is_broken and self.wire.is_reusable()

    def rest(self, now_s: float) -> None:
        """Begin to be idle."""
        self.is_reused = True
        self.idle_since_s = now_s
        self._reader.is_untouched = True

    def is_untouched(self) -> bool:
        """Whether nothing came while it was idle; the end, or what nobody asked for, makes it useless."""
        return self._reader.is_untouched and not self._writer.is_closing()

    def close(self) -> None:
        self._writer.transport.abort()


class AsyncConnections:
    """The connections of a client, all on the event loop that it is first used on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origin = settings.origin
        self._tls: SSLContext | None = tls_context(settings)
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._idle: list[_Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def open(self, request: Request, left: Left) -> "AsyncReply":
        """Send a request, and return its answer, of which the head has come.

        Raises:
            NoAnswer: none came.
            RuntimeError: the client is closed, or bound to another event loop.
        """
        self._check_loop()
        if self._is_closed:
            raise RuntimeError("this client is closed")
        try:
            async with asyncio.timeout(max(0.0, left())):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolExhausted(
                f"all {self._settings.max_connections} connections of this client were busy until now"
            ) from None
        connection: _Connection | None = None
        try:
            connection = self._take() or await self._connect(left)
            try:
                async with _within(left):
                    head = await connection.exchange(request)
            except ConnectionLost:
                if not connection.is_reused or connection.wire.has_answered:
                    raise
                # The server had closed it while it was idle, or was about to: that is no failure of the service's.
                connection.close()
                connection = await self._connect(left)
                async with _within(left):
                    head = await connection.exchange(request)
        except BaseException:
            if connection is not None:
                connection.close()
            self._slots.release()
            raise
        return AsyncReply(self, connection, head)

    def give_back(self, connection: _Connection) -> None:
        """Take a connection back when its exchange is over, or has to be."""
        if connection.is_reusable() and not self._is_closed:
            connection.rest(asyncio.get_running_loop().time())
            self._idle.append(connection)
        else:
            connection.close()
        self._slots.release()

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when its exchange is over."""
        self._is_closed = True
        if self._idle:
            self._check_loop()
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.close()
            # Connections close on the loop's next turn.
            await asyncio.sleep(0)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError("this AsyncClient is used on another event loop already; each loop needs its own")

    def _take(self) -> _Connection | None:
        """Return the connection that was used last, so that those beyond the usual load grow old and are closed."""
        oldest_s = asyncio.get_running_loop().time() - self._settings.idle_timeout_s
        while self._idle and self._idle[0].idle_since_s < oldest_s:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_untouched():
                return connection
            connection.close()
        return None

    async def _connect(self, left: Left) -> _Connection:
        origin = self._origin
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=READ_BYTES, loop=loop)
        timeout_s = min(self._settings.connect_timeout_s, left())
        # Other loops than asyncio's own, such as uvloop's, try one address after the other, and know no such argument.
        is_asyncios = isinstance(loop, asyncio.BaseEventLoop)
        staggered: dict[str, Any] = {"happy_eyeballs_delay": _HAPPY_EYEBALLS_DELAY_S} if is_asyncios else {}
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                transport, protocol = await loop.create_connection(
                    lambda: asyncio.StreamReaderProtocol(reader),
                    origin.host,
                    origin.port,
                    ssl=self._tls,
                    server_hostname=origin.host if self._tls is not None else None,
                    **staggered,
                )
        except TimeoutError:
            raise NotConnected(
                f"{origin.authority} cannot be reached: no connection within {timeout_s:.1f} s"
            ) from None
        except OSError as error:
            if is_mistrust(error):
                raise TrustRefused(f"{origin.authority} is not trusted: {error}") from error
            raise NotConnected(f"{origin.authority} cannot be reached: {error}") from error
        return _Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


class AsyncReply:
    """An answer that is being received; it has to be closed."""

    def __init__(self, owner: AsyncConnections, connection: _Connection, head: Head) -> None:
        self.head = head
        self._owner = owner
        self._connection = connection
        self._is_open = True

    async def read(self, left: Left, max_bytes: int) -> bytes:
        """Return the whole body; raises NoAnswer."""
        parts, size = [], 0
        while part := await self.part(left):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise UnexpectedAnswer(f"the answer is longer than max_answer_bytes, {max_bytes}")
        return b"".join(parts)

    async def part(self, left: Left) -> bytes:
        """Return the next piece of the body, and nothing at its end; raises NoAnswer."""
        while (data := self._connection.wire.body()) is None:
            async with _within(left):
                await self._connection.receive()
        return data

    def close(self) -> None:
        """Let go of the connection. It is used again if the answer has come whole."""
        if self._is_open:
            self._is_open = False
            self._owner.give_back(self._connection)


@contextlib.asynccontextmanager
async def _within(left: Left) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(max(0.0, left())):
            yield
    except TimeoutError:
        raise DeadlineExceeded("no whole answer came in time; the call may have been carried out") from None
