"""uvicorn's HTTP/1.1 protocol with bounds on a request's head: its size, and the time it may take to arrive."""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollhouse.apps.answers import error_answer
from tollhouse.errors import HeadersTooLarge, RequestTimeout, TollhouseError, Unavailable
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id


def bounded_protocol(
    *, max_connections: int, max_header_bytes: int, header_timeout_s: float, clock: Clock
) -> type[asyncio.Protocol]:
    """Return a protocol class for ``uvicorn.Config(http=…)`` that answers 431, 408 or 503 and hangs up.

    Without it, a client could hold memory and connections by never ending the head of its request.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _is_in_head = True
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()
            if len(self.connections) > max_connections:
                self._refuse(Unavailable(f"all {max_connections} connections are in use", retry_after_s=1))

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_in_head:
                if self._head_timer is None:
                    self._expect_head()
                self._head_bytes += len(data)
            super().data_received(data)
            # Looked at once the head is still not complete, so that a body in the same segment does not count.
            if self._is_in_head and self._head_bytes > max_header_bytes:
                self._refuse(HeadersTooLarge(f"the request's head is over the limit of {max_header_bytes} bytes"))

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            self._head_bytes = 0
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._is_in_head = True

        def _expect_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout_s, self._head_is_late)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _head_is_late(self) -> None:
            self._refuse(RequestTimeout(f"the request's head did not arrive within {header_timeout_s:g} seconds"))

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
