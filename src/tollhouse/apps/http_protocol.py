"""uvicorn's HTTP/1.1 protocol with bounds on requests that do not end: their size, and the time they may take."""

import asyncio
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollhouse.apps.answers import error_answer
from tollhouse.errors import HeadersTooLarge, RequestTimeout, TollhouseError, Unavailable
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id


class RequestBounds(msgspec.Struct, frozen=True):
    """How much of a client's requests, and how long, a connection waits for."""

    max_connections: int
    max_header_bytes: int
    header_timeout_s: float
    body_timeout_s: float


def bounded_protocol(bounds: RequestBounds, clock: Clock) -> type[asyncio.Protocol]:
    """Return a protocol class for ``uvicorn.Config(http=…)`` that answers 408, 431 or 503 and hangs up.

    Without it, a client could hold memory and connections by never ending its request. A request that arrives in
    one segment, as nearly all do, never starts a timer.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _is_in_head = True
        _is_whole = False
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > bounds.max_connections:
                self._refuse(Unavailable(f"all {bounds.max_connections} connections are in use", retry_after_s=1))
            else:
                self._await_rest()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_whole:
                return
            if self._timer is None:
                self._await_rest()
            if self._is_in_head:
                self._head_bytes += len(data)
                if self._head_bytes > bounds.max_header_bytes:
                    limit = f"the request's head is over the limit of {bounds.max_header_bytes} bytes"
                    self._refuse(HeadersTooLarge(limit))

        def on_message_begin(self) -> None:
            self._is_whole = False
            self._is_in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            self._head_bytes = 0
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._is_whole = True
            self._stop_timer()
            super().on_message_complete()

        def _await_rest(self) -> None:
            timeout_s = bounds.header_timeout_s if self._is_in_head else bounds.body_timeout_s
            self._timer = self.loop.call_later(timeout_s, self._refuse_late)

        def _refuse_late(self) -> None:
            part = "head" if self._is_in_head else "body"
            timeout_s = bounds.header_timeout_s if self._is_in_head else bounds.body_timeout_s
            self._refuse(RequestTimeout(f"the request's {part} did not arrive within {timeout_s:g} seconds"))

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, error: TollhouseError) -> None:
            self._stop_timer()
            if self.transport.is_closing():
                return
            status, headers, body = error_answer(error, new_id("req", clock.now_ms()))
            head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n".encode()]
            head += [name + b": " + value + b"\r\n" for name, value in headers]
            self.transport.write(b"".join([*head, b"\r\n", body]))
            self.transport.close()

    return BoundedProtocol
