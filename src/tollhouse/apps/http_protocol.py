"""uvicorn's HTTP/1.1 protocol, with a short way for completion calls and bounds on requests that do not end.

A completion call goes from the parser to its endpoint and back in one write: ASGI's scope, events and two writes
would cost as much as the rest of the call. Every other request goes uvicorn's own way to the ASGI application.
"""

import asyncio
import math
from http import HTTPStatus

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tollhouse.apps.answers import error_answer, header_lines
from tollhouse.apps.api import CompletionEndpoint, HttpAnswer
from tollhouse.apps.events import ABORT, SOCKET_PATH
from tollhouse.apps.exchange import Request, Stream
from tollhouse.completions.routes import Route
from tollhouse.errors import (
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
    RequestTooLarge,
    TollhouseError,
    Unavailable,
)
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id

# How long a stop waits for an idle client to read what is left and close too, which over TLS is for both to do.
_IDLE_TLS_CLOSES_WITHIN_S = 2.0
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class _Malformed(InvalidRequest):
    """What arrived is not HTTP/1.1."""

    status = 400


class RequestBounds(msgspec.Struct, frozen=True):
    """How much of a client's requests, and how long, a connection waits for."""

    max_connections: int
    max_header_bytes: int
    max_body_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    idle_timeout_s: float


class _Dropped(list[tuple[bytes, bytes]]):
    """Where the fields of a chunked body's trailer go: they must not pass for headers, nor fill the memory."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        pass


_DROPPED = _Dropped()


class _CommonLines:
    """The header lines that uvicorn adds to every answer, as it renews them once a second."""

    __slots__ = ("_headers", "_lines")

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def __call__(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers, self._lines = headers, header_lines(headers)
        return self._lines


def _no_route(_target: bytes) -> None:
    """Find no completion call, where none is served."""


def api_protocol(
    endpoint: CompletionEndpoint | None, bounds: RequestBounds, clock: Clock, *, takes_completions: bool = True
) -> type[asyncio.Protocol]:
    """Return the protocol class for ``uvicorn.Config(http=…)``, of one listener.

    It answers 400, 408, 413, 431 or 503 and hangs up on requests that are malformed or out of bounds. A request that
    arrives in one segment, as nearly all do, never starts a timer.
    """
    common_lines = _CommonLines()
    find_route = endpoint.find if endpoint is not None and takes_completions else _no_route
    # The server's own set is of all listeners; callers who take all of one must not keep operators from another.
    open_here: set[asyncio.Transport] = set()

    class ApiProtocol(HttpToolsProtocol):
        _request: Request | None = None
        _is_answering = False
        _is_ignoring = False
        _head_bytes = 0
        _segment_bytes = 0
        # Of a request's body, what came since a piece of it was read: its trailer, but for the rest of that segment.
        _trailer_bytes = 0
        _is_in_head = True
        _is_whole = False
        _timer: asyncio.TimerHandle | None = None
        _task: asyncio.Task[None]
        _idle_timer: asyncio.TimerHandle | None = None
        _idle_until_s = math.inf

        # The connection.

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            open_here.add(transport)
            if len(open_here) > bounds.max_connections:
                self._hang_up(Unavailable(f"all {bounds.max_connections} connections are in use", retry_after_s=1))
            else:
                self._await_rest()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            open_here.discard(self.transport)
            super().connection_lost(exc)

        def shutdown(self) -> None:
            """Let a call in flight be answered, then close; called by uvicorn when it stops."""
            if self._request is not None:
                self._request.keeps_alive = False
            else:
                super().shutdown()
                if self.scheme == "https" and self.transport.is_closing():
                    self.loop.call_later(_IDLE_TLS_CLOSES_WITHIN_S, self.transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._is_ignoring:
                return
            self._segment_bytes = len(data)
            if self._is_in_head:
                self._head_bytes += len(data)
            else:
                self._trailer_bytes += len(data)
            self._idle_until_s = math.inf
            self._unset_keepalive_if_required()
            self._feed(data)
            self._wait_for_more()

        def _wait_for_more(self) -> None:
            """Bound the wait for the rest of a request, or for the next one."""
            if self._is_ignoring:
                return
            if self._is_whole:
                if not self._is_busy() and self._timer is None:
                    # Blank lines between requests began none, but ended the wait for one.
                    self._await_rest()
                return
            if self._trailer_bytes > bounds.max_header_bytes:
                self._refuse_trailer()
                return
            if self._timer is None:
                self._await_rest()
                if self._request is not None and not self._is_in_head:
                    self._expect_body(self._request)
            if self._is_in_head and self._head_bytes > bounds.max_header_bytes:
                self._refuse_head()

        def _feed(self, data: bytes) -> None:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._is_ignoring:
                    return
                rest = data[offer.args[0] :]
                if self._is_for_socket():
                    self._open_socket(rest)
                else:
                    self._decline_upgrade(rest)
            except httptools.HttpParserError:
                if self._is_busy() and not self._awaits_body():
                    self._ignore_what_follows()
                elif not self._is_ignoring:
                    self._hang_up(_Malformed("what was sent is not valid HTTP/1.1"), is_sending=True)

        def _is_for_socket(self) -> bool:
            """Whether a WebSocket is asked for where one is served."""
            is_there = self.url.partition(b"?")[0] == SOCKET_PATH and self.parser.get_method() == b"GET"
            return is_there and dict(self.headers).get(b"upgrade", b"").lower() == b"websocket" and not self._is_busy()

        def _open_socket(self, rest: bytes) -> None:
            """Give the connection to the protocol of WebSockets, beginning with the request's head."""
            from tollhouse.apps.websockets import take_over

            self._stop_timer()
            self._is_ignoring = True
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self.connections.discard(self)
            lines = [b"GET %b HTTP/1.1" % self.url, *(b"%b: %b" % header for header in self.headers)]
            head = b"\r\n".join([*lines, b"", rest])
            take_over(self.transport, self.config, self.server_state, head, lambda: open_here.discard(self.transport))

        def _decline_upgrade(self, rest: bytes) -> None:
            """Read on as if no other protocol were offered, as RFC 9110 §7.8 allows; Java's client always offers one.

            The parser left the body to the other protocol, so that it gets the head once more, without the offer.
            """
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            if method == b"CONNECT":
                self._hang_up(MethodNotAllowed("CONNECT is not served here: this is no proxy"), is_sending=True)
                return
            lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
            lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"\r\n".join([*lines, b"", rest]))

        # The parser's callbacks.

        def on_message_begin(self) -> None:
            self._is_whole = False
            self._is_in_head = True
            # What came before were blank lines, which take nothing from this head's size and time.
            self._head_bytes = self._segment_bytes
            if self._timer is not None:
                self._stop_timer()
                self._await_rest()
            # ASGI's scope is only made for requests that go to the application.
            self.url = b""
            self.headers = []
            self.expect_100_continue = False
            if self._is_busy():
                self._ignore_what_follows()

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            self._stop_timer()
            if self._is_ignoring or self.parser.should_upgrade():
                return
            if self._head_bytes > bounds.max_header_bytes and self._head_size() > bounds.max_header_bytes:
                self._refuse_head()
            elif self.parser.get_method() == b"POST" and (route := find_route(self.url)) is not None:
                self._begin_request(route)
            else:
                self._begin_asgi_request()
            self._head_bytes = 0
            self.headers = _DROPPED

        def _begin_asgi_request(self) -> None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            # The scope holds this very list.
            self.headers.extend(headers)
            super().on_headers_complete()
            self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]

        def on_body(self, body: bytes) -> None:
            request = self._request
            self._trailer_bytes = 0
            if self._is_ignoring:
                return
            if request is None:
                super().on_body(body)
                return
            request.size += len(body)
            if request.size > bounds.max_body_bytes:
                self._refuse_body()
            elif not isinstance(request.caller, TollhouseError):
                request.parts.append(body)

        def on_message_complete(self) -> None:
            if self._is_ignoring or self.parser.should_upgrade():
                return
            self._is_whole = True
            self._is_in_head = True
            self._trailer_bytes = 0
            self._stop_timer()
            if not self.parser.should_keep_alive():
                # Said in the head or, where nobody else heeds it, in the trailer: the parser takes no further request.
                self._close_when_answered()
            if self._request is None:
                super().on_message_complete()
            else:
                self._is_answering = True
                self._task = self.loop.create_task(self._answer(self._request))
                self.tasks.add(self._task)

        # Completion calls.

        def _begin_request(self, route: Route) -> None:
            assert endpoint is not None, "no route was found without one"
            caller = endpoint.identify(route, self.headers, self.client)
            # Asked now: once the next request has begun to arrive, the parser tells of that one.
            knows_chunks = self.parser.get_http_version() != "1.0"
            self._request = Request(route, caller, self.headers, knows_chunks=knows_chunks)

        def _expect_body(self, request: Request) -> None:
            """Decide whether to wait for a body that did not come along with its head."""
            length = next((int(value) for name, value in request.headers if name == b"content-length"), 0)
            if length > bounds.max_body_bytes:
                self._refuse_body()
            elif self.expect_100_continue and not request.size:
                # The client sends nothing more before it is told to, or told why not (RFC 9110 §10.1.1).
                if isinstance(request.caller, TollhouseError):
                    self._hang_up(request.caller)
                else:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        def _is_busy(self) -> bool:
            cycle: RequestResponseCycle | None = self.cycle
            return self._is_answering or (cycle is not None and not cycle.response_complete)

        def _awaits_body(self) -> bool:
            """Whether the ASGI application has a request whose body is not whole."""
            return not self._is_whole and not self._is_in_head and self._request is None

        def _ignore_what_follows(self) -> None:
            """Answer the request at hand and close: nothing that follows is read, and HTTP lets it be sent again."""
            self._is_ignoring = True
            self._stop_timer()
            self._close_when_answered()

        def _close_when_answered(self) -> None:
            if self._request is not None:
                self._request.keeps_alive = False
            elif self.cycle is not None:
                self.cycle.keep_alive = False
                if self.cycle.response_complete:
                    # It was answered before its body was whole, and nobody else would close now.
                    self.transport.close()

        def _is_answered(self) -> bool:
            """Whether the application has begun to answer; if it has not, it no longer may."""
            cycle: RequestResponseCycle | None = self.cycle
            if cycle is None or cycle.response_started:
                return cycle is not None
            cycle.disconnected = True
            cycle.message_event.set()
            return False

        async def _answer(self, request: Request) -> None:
            answer: HttpAnswer | None
            route, caller = request.route, request.caller
            assert endpoint is not None, "no route was found without one"
            try:
                if isinstance(caller, TollhouseError):
                    answer = endpoint.refuse(route, caller)
                else:
                    parts = request.parts
                    body = parts[0] if len(parts) == 1 else b"".join(parts)
                    request_id = endpoint.new_request_id()
                    sink = Stream(self, request, request_id)
                    answer = await endpoint.answer(route, caller, body, request_id, sink, self.client)
            finally:
                # Here and not in a callback of the task, which would cost a turn of the loop for each call. A task that
                # was cancelled before it began stays listed, which happens when the server gives up waiting for it.
                self.tasks.discard(self._task)
            self._request = None
            self._is_answering = False
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            if answer is not None:
                self._write(answer, keeps_alive=request.keeps_alive)
            if request.keeps_alive:
                self._idle_until_s = self.loop.time() + bounds.idle_timeout_s
                if self._idle_timer is None:
                    self._idle_timer = self.loop.call_at(self._idle_until_s, self._end_idling)
            else:
                self.transport.close()

        def _write(self, answer: HttpAnswer, *, keeps_alive: bool) -> None:
            status, headers, body = answer
            end = b"\r\n" if keeps_alive else b"connection: close\r\n\r\n"
            common = common_lines(self.server_state.default_headers)
            line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Other\r\n" % status
            self.transport.write(b"".join((line, common, headers, end, body)))

        # Bounds.

        def _end_idling(self) -> None:
            """Close the connection if it was idle for long enough; else look again when it could be.

            One timer serves all calls of a connection: to set one for each would cost more than to parse the call.
            """
            self._idle_timer = None
            if self._idle_until_s <= self.loop.time():
                self.transport.close()
            elif self._idle_until_s < math.inf:
                self._idle_timer = self.loop.call_at(self._idle_until_s, self._end_idling)

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
            error = HeadersTooLarge(f"the request's head is over the limit of {bounds.max_header_bytes} bytes")
            self._hang_up(error, is_sending=True)

        def _refuse_trailer(self) -> None:
            error = HeadersTooLarge(f"the request's trailer is over the limit of {bounds.max_header_bytes} bytes")
            self._hang_up(error, is_sending=True)

        def _refuse_body(self) -> None:
            error = RequestTooLarge(f"the body is over the limit of {bounds.max_body_bytes} bytes")
            self._hang_up(error, is_sending=True)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _hang_up(self, error: TollhouseError, *, is_sending: bool = False) -> None:
            """Answer and close. A client that may still be sending is listened to meanwhile, though not heeded.

            To close at once would reset its connection, and it might never see the answer (RFC 9112 §9.6).
            """
            is_answered = self._awaits_body() and self._is_answered()
            self._stop_timer()
            self._is_ignoring = True
            self._request = None
            if self.transport.is_closing():
                return
            if is_answered:
                # The application answered before the body was whole; a second answer would pass for another's.
                self.transport.close()
                return
            status, headers, body = error_answer(error, new_id("req", clock.now_ms()))
            self._write((status, header_lines(headers), body), keeps_alive=False)
            if is_sending:
                # TLS knows no half of a connection: there the client sees the answer's own end, by its length.
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                self._timer = self.loop.call_later(bounds.body_timeout_s, self.transport.close)
            else:
                self.transport.close()

    return ApiProtocol
