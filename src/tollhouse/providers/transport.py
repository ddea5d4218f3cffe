"""The transport to a provider: pooled HTTP/1.1 that always knows whether a call may have been received.

Its errors draw the line on which money hangs. Until a request's first byte may have left, every failure is
NotSent: another attempt is safe. From then on it is OutcomeUnknown, and TimedOut for a deadline; nothing is
ever sent a second time from here.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial

import msgspec

from tollhouse.providers.address import parse_base_url, parse_proxy_url, proxy_from_environment
from tollhouse.providers.base import NotSent, OutcomeUnknown, Unreachable, WireRequest, WireResponse
from tollhouse.providers.dial import Dialer
from tollhouse.providers.http1 import Connection
from tollhouse.providers.incoming import Incoming

__all__ = ["TransportLimits", "Upstream", "proxy_from_environment"]

_PATH = re.compile(r"/[!-\"$-~]*")
# RFC 9110 §5.6.2 and §5.5: the characters of a header's name, and of its value.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")
# These say where a request ends and what becomes of the connection: they are the transport's alone.
_TRANSPORT_HEADERS = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
    "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
# Heads of requests that differ only in their body are made once; there are about as many as models.
_REMEMBERED_HEADS = 256


class TransportLimits(msgspec.Struct, frozen=True):
    """Bounds of one provider's transport."""

    connect_timeout_s: float = 5.0
    """For name, TCP, proxy and TLS together."""
    max_connections: int = 100
    max_waiting: int = 1000
    """Calls that may wait for a connection; one more is NotSent at once."""
    max_answer_bytes: int = 32 * 1024 * 1024
    """Of an answer's body: decompressed as well as on the wire."""
    max_header_bytes: int = 64 * 1024
    """Of everything up to the end of an answer's headers."""
    idle_timeout_s: float = 30.0
    """A connection idle for longer is closed rather than used."""


class Upstream:
    """One provider's base_url, and the pool of connections to it.

    A *slot* is the right to have one connection, and there are ``max_connections`` of them. An idle
    connection holds its slot; otherwise the call does that has it. A call gives up its slot exactly once, in
    ``_release`` or ``_free_slot``, which pass it on to the longest waiting call.

    Args:
        base_url: ``http[s]://host[:port][/path][?query]``; path and query become part of every request's.
        limits: the bounds.
        tls: how the provider's certificate is verified; by default with the system's roots.
        proxy_url: a forward proxy, ``http[s]://[user:password@]host[:port]``.

    Raises:
        ValueError: a URL is malformed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        limits: TransportLimits = TransportLimits(),  # noqa: B008 - frozen
        tls: ssl.SSLContext | None = None,
        proxy_url: str | None = None,
    ) -> None:
        self._base_url = parse_base_url(base_url)
        self._proxy = parse_proxy_url(proxy_url) if proxy_url else None
        self._name = self._base_url.address.host
        self._limits = limits
        self._dialer = Dialer(self._base_url.address, self._proxy, tls)
        self._head = lru_cache(_REMEMBERED_HEADS)(self._make_head)
        self._slots_taken = 0
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._connections: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(
        self,
        wire: WireRequest,
        *,
        deadline_s: float,
        first_byte_timeout_s: float | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> WireResponse:
        """Send a request once, and return its answer whatever its status.

        Args:
            wire: the request.
            deadline_s: time of the running loop's clock by which everything ends, waiting included.
            first_byte_timeout_s: seconds from sending until the answer's head has to be there, or None.
            may_send: asked right before sending, when nothing is waited for any more; None takes it as a yes.

        Raises:
            NotSent: nothing of the request can have left.
            OutcomeUnknown: it may have been received, but there is no sound answer.
            TimedOut: … because a deadline passed.
            ValueError: the path or a header of ``wire`` would break the request apart.
        """
        body = wire.body
        request = b"%b%d\r\n\r\n%b" % (self._head(wire.path, wire.headers, "gzip"), len(body), body)
        connection = await self._connection(deadline_s, may_send)
        try:
            response = await connection.send(request, deadline_s, first_byte_timeout_s)
        finally:
            self._release(connection)
        assert isinstance(response, WireResponse), "it was not asked for in pieces"
        return response

    async def open(
        self,
        wire: WireRequest,
        *,
        begin_by_s: float,
        deadline_s: float,
        first_byte_timeout_s: float | None = None,
        pause_s: float,
        may_send: Callable[[], bool] | None = None,
    ) -> WireResponse | Incoming:
        """Send a request once; return its answer as it comes if it is a stream of status 200, else whole.

        What is returned to be read piece by piece has to be closed.

        Args:
            wire: as for ``post``, and so are ``first_byte_timeout_s`` and ``may_send``.
            begin_by_s: time of the running loop's clock by which the answer's head has to be there, or all of an
                answer that is no stream.
            deadline_s: time of the running loop's clock by which everything ends, reading included.
            pause_s: the longest that the answer may pause once it has begun, in seconds.

        Raises:
            NotSent, OutcomeUnknown, TimedOut, ValueError: as for ``post``.
        """
        body = wire.body
        # A compressed stream would come in larger pieces, and later.
        request = b"%b%d\r\n\r\n%b" % (self._head(wire.path, wire.headers, "identity"), len(body), body)
        begin_by_s = min(begin_by_s, deadline_s)
        connection = await self._connection(begin_by_s, may_send)
        try:
            response = await connection.send(request, begin_by_s, first_byte_timeout_s, pause_s, deadline_s)
        except BaseException:
            self._release(connection)
            raise
        if isinstance(response, WireResponse):
            self._release(connection)
        else:
            response.opened(partial(self._release, connection))
        return response

    async def _connection(self, deadline_s: float, may_send: Callable[[], bool] | None) -> Connection:
        """Return a connection to be sent on at once."""
        connection = self._take_idle() or await self._wait_for_connection(deadline_s)
        if may_send is not None and not may_send():
            self._release(connection)
            raise NotSent("the call is not this instance's to make any more")
        return connection

    async def probe(self, timeout_s: float) -> None:
        """Open a connection of its own, TLS included, and close it: proof of reach that bills nothing.

        Raises:
            NotSent: the provider cannot be reached, for the reason given.
        """
        connection = await self._connect(asyncio.get_running_loop().time() + timeout_s)
        connection.hang_up()

    async def close(self) -> None:
        """Close every connection and refuse all further calls; calls that still wait fail."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while waiter := self._next_waiter():
            waiter.set_exception(self._closed_error())
        connections = list(self._connections)
        for connection in connections:
            connection.close(OutcomeUnknown(f"the transport to {self._name} was closed during the call"))
        for connection in connections:
            await connection.closed()

    # The request.

    def _make_head(self, path: str, headers: tuple[tuple[str, str], ...], encoding: str) -> bytes:
        """Return a request's head up to the number that Content-Length says."""
        if not _PATH.fullmatch(path):
            raise ValueError("a request's path must begin with / and contain only visible ASCII, without #")
        address = self._base_url.address
        target = self._base_url.target(path)
        lines = [f"Host: {address.authority}", "User-Agent: tollhouse", f"Accept-Encoding: {encoding}"]
        if self._proxy is not None and address.scheme == "http":
            target = f"http://{address.authority}{target}"
            if self._proxy.authorization is not None:
                lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _TRANSPORT_HEADERS:
                raise ValueError(f"{name!r} is not a header that a request may set")
            if not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} contains a character that no header may contain")
            lines.append(f"{name}: {value}")
        lines += ["Content-Type: application/json", "Content-Length: "]
        return "\r\n".join([f"POST {target} HTTP/1.1", *lines]).encode("latin-1")

    # The pool.

    def _take_idle(self) -> Connection | None:
        """Return the idle connection that was used last: the least likely to have gone stale."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            self._discard(connection)
        return None

    async def _wait_for_connection(self, deadline_s: float) -> Connection:
        self._check_open()
        if self._slots_taken < self._limits.max_connections:
            self._slots_taken += 1
        else:
            connection = await self._wait_for_turn(deadline_s)
            if connection is not None:
                if connection.usable():
                    return connection
                connection.close()
        try:
            return await self._connect(deadline_s)
        except BaseException:
            self._free_slot()
            raise

    async def _wait_for_turn(self, deadline_s: float) -> Connection | None:
        """Wait for a slot; with it may come a connection."""
        if len(self._waiters) >= self._limits.max_waiting:
            raise NotSent(f"too many calls are waiting for a connection to {self._name}")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_at(deadline_s, self._expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                # The slot came in the same moment as the cancellation: it belongs to the next in line.
                self._pass_on(waiter.result())
            raise
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(NotSent(f"no connection to {self._name} came free before the deadline"))

    async def _connect(self, deadline_s: float) -> Connection:
        self._check_open()
        limits = self._limits
        connection = Connection(self._name, limits.max_answer_bytes, limits.max_header_bytes, self._on_connection_lost)
        now_s = asyncio.get_running_loop().time()
        try:
            await self._dialer.open(connection, min(deadline_s, now_s + limits.connect_timeout_s))
        except BaseException:
            connection.close()
            raise
        if not connection.ready:
            raise Unreachable(f"{self._name} closed the connection as soon as it was made")
        self._connections.add(connection)
        if self._closed:
            connection.close()
        self._check_open()
        return connection

    def _release(self, connection: Connection) -> None:
        """Take a connection back, with its slot, after an exchange.

        Unless its answer was read to a clean end, it is closed: after a failure, and when the caller has gone.
        """
        if not connection.ready or self._closed:
            self._discard(connection)
            return
        connection.rest(self._limits.idle_timeout_s)
        if waiter := self._next_waiter():
            waiter.set_result(connection)
            return
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(self._limits.idle_timeout_s, self._reap)

    def _pass_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._free_slot()
        else:
            self._release(connection)

    def _discard(self, connection: Connection) -> None:
        connection.close()
        self._free_slot()

    def _free_slot(self) -> None:
        if waiter := self._next_waiter():
            waiter.set_result(None)
        else:
            self._slots_taken -= 1

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            # One that was cancelled stays in the queue until its task has run.
            if not waiter.done():
                return waiter
        return None

    def _on_connection_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._free_slot()

    def _reap(self) -> None:
        """Close what has been idle for too long, and come again as long as there is anything idle."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in [idle for idle in self._idle if idle.unusable_at_s <= now_s]:
            self._idle.remove(connection)
            self._discard(connection)
        self._reaper = loop.call_later(self._limits.idle_timeout_s, self._reap) if self._idle else None

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> NotSent:
        return NotSent(f"the transport to {self._name} is closed")
