"""A small HTTP/1.1 server for the fake provider: fast, and able to break off in the ways real ones do."""

import asyncio
import contextlib
import http
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Literal, cast

import httptools
import msgspec

# As much of a stream is written at once as can be; beyond what a transport buffers, it would be for nothing.
_BATCH_BYTES = 65536
_LAST_CHUNK = b"0\r\n\r\n"
# Long enough for the first half of an answer to reach the client before the reset does.
_MID_ANSWER_S = 0.01
# On close, send a reset rather than the rest of the data (socket(7), SO_LINGER).
_LINGER_NOT = struct.pack("ii", 1, 0)


class HttpCall(msgspec.Struct, frozen=True, gc=False):
    """A whole request."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Stream(msgspec.Struct):
    """An answer that is sent in events, and how far it has come."""

    events: Iterator[bytes]
    chunk_delay_s: float = 0.0
    ending: Literal["whole", "close", "reset", "hang"] = "whole"
    """What follows the last event: the body's end, the connection's, its reset, or nothing."""
    sent: int = 0
    """Events handed to the connection."""
    left_after: int | None = None
    """Events handed to the connection when the client closed it before the end."""


class Delivery(msgspec.Struct, frozen=True):
    """An answer, and what becomes of it."""

    status: int
    body: bytes = b""
    """Empty for a stream."""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    fate: Literal["whole", "never", "reset_before", "reset_mid"] = "whole"
    keep_alive: bool = True
    stream: Stream | None = None


class Connection(asyncio.Protocol):
    """One client's connection, answering one request at a time."""

    def __init__(self, handle: Callable[[HttpCall], Delivery], connections: set["Connection"]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._is_paused = False
        # The stream that is being sent, what goes before its next event, and that event: None when none is left.
        self._delivery: Delivery | None = None
        self._stream: Stream | None = None
        self._head = b""
        self._next: bytes | None = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one in all but its ancestry.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the reason changes nothing
        self._transport = None
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._note_left()

    def eof_received(self) -> None:
        # The transport closes now; what would still be written is lost, and not to be counted as sent.
        self._note_left()

    def _note_left(self) -> None:
        if self._stream is not None:
            self._stream.left_after = self._stream.sent
            self._stream = None

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._stream is not None and self._timer is None:
            self._send_events()

    def abort(self) -> None:
        # It is not the client that leaves.
        self._stream = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()

    # What httptools calls, in this order.

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._busy:
            # A client that does not wait for its answer is broken; answering it out of order would hide that.
            self.abort()
            return
        self._busy = True
        method = self._parser.get_method().decode("latin-1")
        call = HttpCall(method, self._target.decode("latin-1"), self._headers, b"".join(self._body))
        delivery = self._handle(call)
        if not self._parser.should_keep_alive():
            delivery = msgspec.structs.replace(delivery, keep_alive=False)
        # Whoever leaves before the first event leaves a stream as well.
        self._stream = delivery.stream
        if delivery.delay_s > 0:
            self._timer = asyncio.get_running_loop().call_later(delivery.delay_s, self._deliver, delivery)
        else:
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        self._timer = None
        transport = self._transport
        if transport is None or delivery.fate == "never":
            return
        if delivery.fate == "reset_before":
            self._reset()
            return
        if delivery.stream is not None:
            self._begin_stream(delivery, delivery.stream)
            return
        answer = _head(delivery) + delivery.body
        if delivery.fate == "reset_mid":
            transport.write(answer[: len(answer) - (len(delivery.body) + 1) // 2])
            self._timer = asyncio.get_running_loop().call_later(_MID_ANSWER_S, self._reset)
            return
        transport.write(answer)
        self._end(delivery)

    def _end(self, delivery: Delivery) -> None:
        self._busy = False
        if not delivery.keep_alive and self._transport is not None:
            self._transport.close()

    def _begin_stream(self, delivery: Delivery, stream: Stream) -> None:
        self._delivery = delivery
        self._head = _head(delivery)
        self._next = next(stream.events, None)
        self._send_events()

    def _send_events(self) -> None:
        """Send what may be sent of the stream now: the next event, or all for which there is room."""
        self._timer = None
        while not self._is_paused:
            stream, transport = self._stream, self._transport
            if stream is None or transport is None:
                return
            chunks, size = [self._head], 0
            self._head = b""
            while self._next is not None and size < _BATCH_BYTES:
                chunks.append(b"%x\r\n%b\r\n" % (len(self._next), self._next))
                size += len(self._next)
                stream.sent += 1
                self._next = next(stream.events, None)
                if stream.chunk_delay_s > 0:
                    break
            if self._next is None:
                self._end_stream(stream, transport, b"".join(chunks))
                return
            transport.write(b"".join(chunks))
            if stream.chunk_delay_s > 0:
                self._timer = asyncio.get_running_loop().call_later(stream.chunk_delay_s, self._send_events)
                return

    def _end_stream(self, stream: Stream, transport: asyncio.Transport, rest: bytes) -> None:
        delivery = self._delivery
        if stream.ending == "hang" or delivery is None:
            # It stays the connection's stream: the client may still leave it.
            transport.write(rest)
            return
        self._stream = self._delivery = None
        transport.write(rest + _LAST_CHUNK if stream.ending == "whole" else rest)
        if stream.ending == "whole":
            self._end(delivery)
        elif stream.ending == "close":
            transport.close()
        else:
            self._timer = asyncio.get_running_loop().call_later(_MID_ANSWER_S, self._reset)

    def _reset(self) -> None:
        self._stream = None
        if self._transport is not None:
            with contextlib.suppress(OSError):  # The client may have gone first.
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()


def _head(delivery: Delivery) -> bytes:
    lines = [
        f"HTTP/1.1 {delivery.status} {_phrase(delivery.status)}",
        f"content-type: {delivery.content_type}",
        "transfer-encoding: chunked" if delivery.stream is not None else f"content-length: {len(delivery.body)}",
        *(f"{name}: {value}" for name, value in delivery.headers),
    ]
    if not delivery.keep_alive:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"
