"""A completion call on its connection: what has arrived of it, and the answer that it gets in pieces."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollhouse.apps.answers import header_lines
from tollhouse.apps.api import RawHeaders, stream_headers
from tollhouse.completions.routes import Caller, Route
from tollhouse.errors import TollhouseError
from tollhouse.limits.model import Standing

# The longest that a caller may take to read what waits for them.
_SEND_TIMEOUT_S = 60.0


class Request:
    """A completion call that is being received or answered.

    Attributes:
        caller: who calls, or the error that turns them away once their body is through.
        knows_chunks: the client speaks HTTP/1.1, and so a body need not say its length.
    """

    __slots__ = ("caller", "headers", "keeps_alive", "knows_chunks", "parts", "route", "size")

    def __init__(
        self, route: Route, caller: Caller | TollhouseError, headers: RawHeaders, *, knows_chunks: bool
    ) -> None:
        self.route = route
        self.caller = caller
        self.headers = headers
        self.knows_chunks = knows_chunks
        self.keeps_alive = True
        self.parts: list[bytes] = []
        self.size = 0


class Stream:
    """A streamed answer to a request: the pipeline's way to the connection.

    Attributes:
        has_begun: its head was sent.
        standing: see ``Sink``.
    """

    __slots__ = ("_protocol", "_request", "_request_id", "has_begun", "standing")

    def __init__(self, protocol: HttpToolsProtocol, request: Request, request_id: str) -> None:
        self.has_begun = False
        self.standing: tuple[Standing, ...] = ()
        self._protocol = protocol
        self._request = request
        self._request_id = request_id

    @property
    def is_gone(self) -> bool:
        return bool(self._protocol.transport.is_closing())

    def write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport.is_closing():
            return
        head = b""
        if not self.has_begun:
            self.has_begun = True
            head = self._head()
        is_chunked = self._request.knows_chunks
        transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data) if is_chunked else head + data)

    async def drain(self) -> None:
        flow = self._protocol.flow
        if flow.write_paused:
            try:
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await flow.drain()
            except TimeoutError:
                self._protocol.transport.abort()

    def end(self, data: bytes) -> None:
        if data:
            self.write(data)
        if not self.is_gone and self._request.knows_chunks:
            self._protocol.transport.write(b"0\r\n\r\n")

    def _head(self) -> bytes:
        framing = b"transfer-encoding: chunked\r\n"
        if not self._request.knows_chunks:
            # A client that knows no chunks knows the end of the answer by the connection's.
            self._request.keeps_alive = False
            framing = b""
        end = b"\r\n" if self._request.keeps_alive else b"connection: close\r\n\r\n"
        common = header_lines(self._protocol.server_state.default_headers)
        lines = stream_headers(self._request_id) + self._request.route.header_lines(self._request_id, self.standing)
        return b"".join((b"HTTP/1.1 200 OK\r\n", common, lines, framing, end))
