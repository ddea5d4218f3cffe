"""A small HTTP/1.1 server for the fake provider: fast, and able to break off in the ways real ones do."""

import asyncio
import contextlib
import http
import socket
import struct
from collections.abc import Callable
from typing import Literal, cast

import httptools
import msgspec

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


class Delivery(msgspec.Struct, frozen=True):
    """An answer, and what becomes of it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    fate: Literal["whole", "never", "reset_before", "reset_mid"] = "whole"
    keep_alive: bool = True


class Connection(asyncio.Protocol):
    """One client's connection, answering one request at a time."""

    def __init__(self, handle: Callable[[HttpCall], Delivery], connections: set["Connection"]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
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

    def abort(self) -> None:
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
        if delivery.delay_s > 0:
            self._timer = asyncio.get_running_loop().call_later(delivery.delay_s, self._deliver, delivery)
        else:
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        transport = self._transport
        if transport is None or delivery.fate == "never":
            return
        if delivery.fate == "reset_before":
            self._reset()
            return
        answer = _head(delivery) + delivery.body
        if delivery.fate == "reset_mid":
            transport.write(answer[: len(answer) - (len(delivery.body) + 1) // 2])
            self._timer = asyncio.get_running_loop().call_later(_MID_ANSWER_S, self._reset)
            return
        transport.write(answer)
        if delivery.keep_alive:
            self._busy = False
        else:
            transport.close()

    def _reset(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(OSError):  # The client may have gone first.
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()


def _head(delivery: Delivery) -> bytes:
    lines = [
        f"HTTP/1.1 {delivery.status} {_phrase(delivery.status)}",
        f"content-type: {delivery.content_type}",
        f"content-length: {len(delivery.body)}",
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
