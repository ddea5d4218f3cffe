"""uvicorn's HTTP/1.1 protocol, with a short way for completion calls and bounds on requests that do not end.

A completion call goes from the parser to its endpoint and back in one write: ASGI's scope, events and two writes
would cost as much as the rest of the call. Every other request goes uvicorn's own way to the ASGI application.
"""

import asyncio
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tollhouse.apps.answers import error_answer
from tollhouse.apps.api import CompletionEndpoint, HttpAnswer
from tollhouse.completions.routes import COMPLETE_PATH, Caller
from tollhouse.errors import HeadersTooLarge, RequestTimeout, RequestTooLarge, TollhouseError, Unavailable
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id

_COMPLETE_URL = COMPLETE_PATH.encode()
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class RequestBounds(msgspec.Struct, frozen=True):
    """How much of a client's requests, and how long, a connection waits for."""

    max_connections: int
    max_header_bytes: int
    max_body_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    idle_timeout_s: float


class _Request:
    """A completion call that is being received or answered.

    Attributes:
        caller: who calls, or the error that turns them away once their body is through.
    """

    __slots__ = ("caller", "keeps_alive", "parts", "size")

    def __init__(self, caller: Caller | TollhouseError, *, keeps_alive: bool) -> None:
        self.caller = caller
        self.keeps_alive = keeps_alive
        self.parts: list[bytes] = []
        self.size = 0


def api_protocol(endpoint: CompletionEndpoint, bounds: RequestBounds, clock: Clock) -> type[asyncio.Protocol]:
    """Return the protocol class for ``uvicorn.Config(http=…)``.

    It answers 408, 413, 431 or 503 and hangs up on requests out of bounds. A request that arrives in one segment,
    as nearly all do, never starts a timer.
    """

    class ApiProtocol(HttpToolsProtocol):
        _request: _Request | None = None
        _is_answering = False
        _is_ignoring = False
        _head_bytes = 0
        _is_in_head = True
        _is_whole = False
        _timer: asyncio.TimerHandle | None = None

        # The connection.

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > bounds.max_connections:
                self._hang_up(Unavailable(f"all {bounds.max_connections} connections are in use", retry_after_s=1))
            else:
                self._await_rest()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def shutdown(self) -> None:
            """Let a call in flight be answered, then close; called by uvicorn when it stops."""
            if self._request is not None:
                self._request.keeps_alive = False
            else:
                super().shutdown()

        def data_received(self, data: bytes) -> None:
            if self._is_in_head:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._is_whole:
                return
            if self._timer is None:
                self._await_rest()
            if self._is_in_head and self._head_bytes > bounds.max_header_bytes:
                self._refuse_head()

        # The parser's callbacks.

        def on_message_begin(self) -> None:
            self._is_whole = False
            self._is_in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            self._stop_timer()
            if self._head_bytes > bounds.max_header_bytes and self._head_size() > bounds.max_header_bytes:
                self._is_ignoring = True
                self._refuse_head()
            elif self._is_busy():
                # Sent before the last one was answered. HTTP lets a server close then, and the client send it again.
                self._is_ignoring = True
                self._close_after_answer()
            elif self.url == _COMPLETE_URL and self.parser.get_method() == b"POST":
                self._begin_request()
            else:
                super().on_headers_complete()
            self._head_bytes = 0

        def on_body(self, body: bytes) -> None:
            request = self._request
            if self._is_ignoring:
                return
            if request is None:
                super().on_body(body)
                return
            request.size += len(body)
            if request.size > bounds.max_body_bytes:
                self._is_ignoring = True
                self._hang_up(RequestTooLarge(f"the body is over the limit of {bounds.max_body_bytes} bytes"))
            elif not isinstance(request.caller, TollhouseError):
                request.parts.append(body)

        def on_message_complete(self) -> None:
            self._is_whole = True
            self._is_in_head = True
            self._stop_timer()
            if self._is_ignoring:
                return
            if self._request is None:
                super().on_message_complete()
            else:
                self._is_answering = True
                task = self.loop.create_task(self._answer(self._request))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

        # Completion calls.

        def _begin_request(self) -> None:
            caller: Caller | TollhouseError
            try:
                caller = endpoint.identify(self.headers)
            except TollhouseError as error:
                caller = error
            self._request = _Request(caller, keeps_alive=self.parser.should_keep_alive())
            if self.expect_100_continue and not isinstance(caller, TollhouseError):
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        def _is_busy(self) -> bool:
            cycle: RequestResponseCycle | None = self.cycle
            return self._is_answering or (cycle is not None and not cycle.response_complete)

        def _close_after_answer(self) -> None:
            if self._request is not None:
                self._request.keeps_alive = False
            else:
                self.cycle.keep_alive = False

        async def _answer(self, request: _Request) -> None:
            if isinstance(request.caller, TollhouseError):
                answer = endpoint.refuse(request.caller)
            else:
                parts = request.parts
                answer = await endpoint.answer(request.caller, parts[0] if len(parts) == 1 else b"".join(parts))
            self._request = None
            self._is_answering = False
            self.server_state.total_requests += 1
            self._write(answer, keeps_alive=request.keeps_alive)

        def _write(self, answer: HttpAnswer, *, keeps_alive: bool) -> None:
            if self.transport.is_closing():
                return
            status, headers, body = answer
            head = [_STATUS_LINES[status]]
            head += [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
            head += [b"%b: %b\r\n" % header for header in headers]
            head.append(b"\r\n" if keeps_alive else b"connection: close\r\n\r\n")
            head.append(body)
            self.transport.write(b"".join(head))
            if not keeps_alive:
                self.transport.close()
            else:
                self.timeout_keep_alive_task = self.loop.call_later(
                    bounds.idle_timeout_s, self.timeout_keep_alive_handler
                )

        # Bounds.

        def _await_rest(self) -> None:
            timeout_s = bounds.header_timeout_s if self._is_in_head else bounds.body_timeout_s
            self._timer = self.loop.call_later(timeout_s, self._give_up)

        def _give_up(self) -> None:
            part = "head" if self._is_in_head else "body"
            timeout_s = bounds.header_timeout_s if self._is_in_head else bounds.body_timeout_s
            self._hang_up(RequestTimeout(f"the request's {part} did not arrive within {timeout_s:g} seconds"))

        def _head_size(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

        def _refuse_head(self) -> None:
            self._hang_up(HeadersTooLarge(f"the request's head is over the limit of {bounds.max_header_bytes} bytes"))

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _hang_up(self, error: TollhouseError) -> None:
            self._stop_timer()
            self._write(error_answer(error, new_id("req", clock.now_ms())), keeps_alive=False)

    return ApiProtocol
