"""HTTP/1.1 on one connection: a request out, an answer in, and whether the connection may serve again.

Parsing is llhttp's (through httptools). What this file adds is what makes the answer trustworthy: bounds
on everything that arrives, decompression within those bounds, and no reuse of a connection whose state
is not known to the byte.
"""

import asyncio
import math
import re
import select
import ssl
import zlib
from collections.abc import Callable
from typing import cast

import httptools

from tollhouse.providers.base import NotSent, OutcomeUnknown, ProviderError, TimedOut, WireResponse

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZLIB_WINDOW = zlib.MAX_WBITS
_RAW_DEFLATE_WINDOW = -zlib.MAX_WBITS
# The low half of a zlib stream's first byte names its method (RFC 1950 §2.2); 8 is deflate.
_ZLIB_METHOD_DEFLATE = 8

_BODILESS = frozenset({204, 304})
_NO_CODING = frozenset({"", "identity"})
_KEEP_ALIVE_TIMEOUT = re.compile(r"\btimeout\s*=\s*(\d{1,9})", re.IGNORECASE)
# A request sent this close to the moment at which the server said it would hang up may cross its goodbye.
_KEEP_ALIVE_MARGIN_S = 1.0


class BadAnswer(Exception):
    """What arrived cannot be taken as an answer; the message ends the sentence "the answer …"."""


class Body:
    """An answer's body as it arrives: decompressed, bounded, and kept whole.

    Args:
        coding: the Content-Encoding, in lower case.
        max_bytes: how much there may be of it, decompressed.

    Raises:
        BadAnswer: the coding is not one that can be undone here.
    """

    __slots__ = ("_chunks", "_coding", "_inflater", "_max_bytes", "_room_bytes")

    def __init__(self, coding: str, max_bytes: int) -> None:
        if coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise BadAnswer("has a Content-Encoding that was not asked for")
        self._coding = coding
        self._inflater: zlib._Decompress | None = None
        self._chunks: list[bytes] = []
        self._max_bytes = self._room_bytes = max_bytes

    def add(self, chunk: bytes) -> None:
        """Take the next piece; raises BadAnswer when it is too much or does not decompress."""
        if self._coding not in _NO_CODING:
            chunk = self._decompressed(chunk)
        self._room_bytes -= len(chunk)
        if self._room_bytes < 0:
            raise BadAnswer(f"is larger than {self._max_bytes} bytes")
        self._chunks.append(chunk)

    def whole(self) -> bytes:
        """Return the body; raises BadAnswer when its compressed form was cut short."""
        if self._inflater is not None and not self._inflater.eof:
            raise BadAnswer("has a compressed body that is cut short")
        return b"".join(self._chunks)

    def _decompressed(self, chunk: bytes) -> bytes:
        inflater = self._inflater
        if inflater is None:
            inflater = self._inflater = zlib.decompressobj(self._window(chunk))
        elif inflater.eof:
            raise BadAnswer("goes on after the end of its compressed body")
        try:
            # One byte over the limit is enough to know; the rest of a bomb is never unpacked.
            plain = inflater.decompress(chunk, self._room_bytes + 1)
        except zlib.error as error:
            raise BadAnswer(f"has a body that is not valid {self._coding}") from error
        if inflater.unused_data:
            raise BadAnswer("goes on after the end of its compressed body")
        return plain

    def _window(self, chunk: bytes) -> int:
        if self._coding != "deflate":
            return _GZIP_WINDOW
        # "deflate" means a zlib stream (RFC 9110 §8.4.1.2), but some servers send the bare one.
        return _ZLIB_WINDOW if chunk[0] & 0x0F == _ZLIB_METHOD_DEFLATE else _RAW_DEFLATE_WINDOW


class Connection(asyncio.Protocol):
    """One connection to a provider, for one exchange at a time.

    Attributes:
        ready: a request may go out: connected, nothing outstanding, nothing unasked-for has arrived.
        idle_until_s: loop time after which the connection is no longer to be used.
        server_idle_s: seconds for which the server said it keeps an idle connection open.
        lost: done once the socket is gone.

    Args:
        loop: the running loop.
        name: the provider's host, for messages.
        max_answer_bytes: bound on the body, decompressed as well as on the wire.
        max_header_bytes: bound on everything up to the end of the headers, interim answers included.
        on_lost: called once when the connection is gone, for whatever reason.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        *,
        max_answer_bytes: int,
        max_header_bytes: int,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.ready = False
        self.idle_until_s = math.inf
        self.server_idle_s = math.inf
        self.lost = loop.create_future()
        self._loop = loop
        self._name = name
        self._max_answer_bytes = max_answer_bytes
        self._max_header_bytes = max_header_bytes
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._arrivals = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[WireResponse] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The side of the pool.

    def usable(self, now_s: float) -> bool:
        """Return whether an idle connection can take a request.

        The socket is asked directly: a goodbye, or bytes that nobody asked for, may have arrived without
        the loop having come round to read them yet.
        """
        return self.ready and now_s < self.idle_until_s and not self._arrivals.poll(0)

    def send(
        self, request: bytes, deadline_s: float, first_byte_timeout_s: float | None
    ) -> asyncio.Future[WireResponse]:
        """Write a whole request and return the answer to come.

        The future fails with OutcomeUnknown (TimedOut for a deadline). Whoever stops waiting for it has to
        close the connection.

        Args:
            request: head and body.
            deadline_s: loop time by which the answer must be complete.
            first_byte_timeout_s: seconds until the answer's head must have arrived, or None.

        Raises:
            NotSent: the connection was lost, or the deadline passed, before anything was written.
        """
        now_s = self._loop.time()
        if not self.ready or self._transport is None:
            raise NotSent(f"{self._name} closed the connection before the request was sent")
        if deadline_s <= now_s:
            raise NotSent(f"the deadline passed before the request to {self._name} could be sent")
        self.ready = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._status = 0
        self._received_bytes = 0
        self._complete = False
        self._last_chunk = b""
        self._deadline_s = deadline_s
        self._awaits_head = first_byte_timeout_s is not None and now_s + first_byte_timeout_s < deadline_s
        first_s = now_s + cast("float", first_byte_timeout_s) if self._awaits_head else deadline_s
        self._timer = self._loop.call_at(first_s, self._on_timer)
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return self._answer

    def close(self, failure: ProviderError | None = None) -> None:
        """Drop the connection at once; an outstanding answer fails with ``failure``."""
        self.ready = False
        answer = self._end_exchange()
        if self._transport is not None:
            self._transport.abort()
        if answer is not None and not answer.done():
            answer.set_exception(failure or OutcomeUnknown(f"the connection to {self._name} was given up"))
            # Asking marks it as seen: if the caller was cancelled meanwhile, nobody is left to be told.
            answer.exception()

    # The side of the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.ready = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # Bytes that no request asked for must never be taken for the next request's answer.
            self.close()
            return
        self._received_bytes += len(data)
        clean = False
        try:
            self._parser.feed_data(data)
            clean = self._complete and self._nothing_follows(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What follows a complete answer costs the connection, not the answer.
            if not self._complete:
                self._fail(error)
                return
        if self._complete:
            self._finish(reusable=clean and self._parser.should_keep_alive())
        elif self._status == 0 and self._received_bytes > self._max_header_bytes:
            self._fail(BadAnswer(f"has headers larger than {self._max_header_bytes} bytes"))
        elif self._received_bytes > self._max_header_bytes + self._max_answer_bytes:
            self._fail(BadAnswer(f"is larger than {self._max_answer_bytes} bytes"))

    def eof_received(self) -> None:
        # A body without length or chunks ends with the connection. On a bare socket a crash of the server
        # looks the same; TLS says goodbye first (RFC 8446 §6.1), and without that the body counts as cut.
        if self._answer is not None and self._status and self._until_eof and self._said_goodbye():
            self._finish(reusable=False)
        else:
            self.close(self._cut_off())

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(self._cut_off())
        self._transport = None
        self.lost.set_result(None)
        self._on_lost(self)

    # The side of the parser. What is raised here comes out of feed_data as an HttpParserCallbackError.

    def on_message_begin(self) -> None:
        if self._complete:
            raise BadAnswer("is followed by another one")

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head these are a chunked body's trailers, which must not pass for headers.
        if not self._status:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._take_head(status)
        elif status < 100 or status == 101:
            raise BadAnswer(f"has the status {status:03d}")
        else:
            self._headers = []

    def on_body(self, chunk: bytes) -> None:
        self._last_chunk = chunk
        self._body.add(chunk)

    def on_message_complete(self) -> None:
        # An interim answer (1xx) is complete too, but leaves the status unset: the real one follows.
        self._complete = self._status != 0

    def _take_head(self, status: int) -> None:
        headers: dict[str, str] = {}
        size_bytes = 0
        for raw_name, raw_value in self._headers:
            size_bytes += len(raw_name) + len(raw_value)
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if size_bytes > self._max_header_bytes:
            raise BadAnswer(f"has headers larger than {self._max_header_bytes} bytes")
        transfer_coding = headers.get("transfer-encoding")
        if transfer_coding is not None and (
            transfer_coding.lower() != "chunked" or self._parser.get_http_version() != "1.1"
        ):
            raise BadAnswer("has a Transfer-Encoding other than chunked")
        self._chunked = transfer_coding is not None
        self._until_eof = not (self._chunked or "content-length" in headers or status in _BODILESS)
        self._body = Body(headers.get("content-encoding", "").lower(), self._max_answer_bytes)
        if "keep-alive" in headers and (timeout := _KEEP_ALIVE_TIMEOUT.search(headers["keep-alive"])):
            self.server_idle_s = int(timeout[1]) - _KEEP_ALIVE_MARGIN_S
        self._header_map = headers
        self._status = status

    def _nothing_follows(self, data: bytes) -> bool:
        """Return whether the complete answer ends where ``data`` does.

        llhttp reports what follows an answer, except line ends, which it skips. So only data that ends in
        one is in question: its last line end has to be the answer's own. When that cannot be seen from this
        piece alone, the answer is no.
        """
        if data[-1] not in b"\r\n":
            return True
        if self._chunked or not self._last_chunk:
            return data.endswith(b"\r\n\r\n") and data[-5:-4] not in {b"", b"\r", b"\n"}
        return data.endswith(self._last_chunk) and bool(self._last_chunk.strip(b"\r\n"))

    # How an exchange ends.

    def _finish(self, *, reusable: bool) -> None:
        try:
            response = WireResponse(self._status, self._header_map, self._body.whole())
        except BadAnswer as error:
            self._fail(error)
            return
        answer = self._end_exchange()
        transport = self._transport
        # A server may answer before it has read the whole request; what is left of it must not be sent
        # in front of the next one.
        if reusable and transport is not None and not transport.get_write_buffer_size():
            self.ready = True
        else:
            self.close()
        if answer is not None and not answer.done():
            answer.set_result(response)

    def _fail(self, error: Exception) -> None:
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
        what = str(cause) if isinstance(cause, BadAnswer) else f"is not valid HTTP/1.1 ({error})"
        failure = OutcomeUnknown(f"the answer of {self._name} {what}")
        failure.__cause__ = cause
        self.close(failure)

    def _cut_off(self) -> OutcomeUnknown | None:
        if self._answer is None:
            return None
        where = "in the middle of its answer" if self._received_bytes else "without an answer"
        return OutcomeUnknown(f"{self._name} closed the connection {where}")

    def _on_timer(self) -> None:
        if not self._awaits_head:
            self.close(TimedOut(f"the deadline passed before {self._name} had answered"))
        elif not self._status:
            self.close(TimedOut(f"{self._name} did not begin to answer in time"))
        else:
            self._awaits_head = False
            self._timer = self._loop.call_at(self._deadline_s, self._on_timer)

    def _end_exchange(self) -> asyncio.Future[WireResponse] | None:
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return answer

    def _said_goodbye(self) -> bool:
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            # Only after a close_notify is there nothing more to wait for.
            return tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False
