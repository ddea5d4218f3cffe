"""Completion calls as HTTP: every outcome becomes an answer with its status, headers and body."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import structlog

from tollhouse.apps.answers import error_answer, header_lines
from tollhouse.apps.noting import Client, address_of, note_refusal
from tollhouse.audit.uses import ADMIN_USED, NotableUses
from tollhouse.completions.relay import Sink
from tollhouse.completions.routes import Caller, Route, Routes
from tollhouse.errors import InternalError, ProviderRejected, TollhouseError, Unavailable
from tollhouse.keys.service import ADMIN_KEY_ID
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.limits.model import Standing
from tollhouse.resilience.shedding import LoadShedder
from tollhouse.telemetry.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]
HttpAnswer = tuple[int, bytes, bytes]
"""Status, header lines and body."""

_HEADERS = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
_STREAM_HEADERS = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    # Proxies such as nginx would otherwise collect what is meant to arrive piece by piece.
    b"x-accel-buffering: no\r\n"
    b"x-request-id: %b\r\n"
)
_REPLAYED = b"idempotent-replayed: true\r\n"
_LOG = structlog.get_logger("tollhouse.api")


class CompletionEndpoint:
    """Answers completion calls; the HTTP server hands them over whole."""

    def __init__(self, routes: Routes, metrics: Metrics, clock: Clock, uses: NotableUses, shedder: LoadShedder) -> None:
        self._routes = routes
        self._shedder = shedder
        self._metrics = metrics
        self._clock = clock
        self._uses = uses

    def find(self, target: bytes) -> Route | None:
        """Return the route of a POST's target, or None where no completion call goes."""
        return self._routes.find(target)

    def identify(self, route: Route, headers: RawHeaders, client: Client) -> Caller | TollhouseError:
        """Return who calls, or the error that turns them away; uses of keys that are of note are noted."""
        try:
            caller = route.identify(headers)
        except TollhouseError as error:
            note_refusal(self._uses, error, "", client)
            return error
        if caller.principal.key_id == ADMIN_KEY_ID:
            self._uses.note(ADMIN_USED, ADMIN_KEY_ID, address=address_of(client))
        return caller

    def refuse(self, route: Route, error: TollhouseError) -> HttpAnswer:
        """Return the answer to a request that is turned away."""
        self._metrics.answered(error.status, error.code)
        return _told(route, error, self.new_request_id())

    async def answer(
        self, route: Route, caller: Caller, body: bytes, request_id: str, sink: Sink, client: Client = None
    ) -> HttpAnswer | None:
        """Serve a call; None once the sink has taken its answer. Never raises, but for cancellation."""
        metrics = self._metrics
        overload = self._shedder.turn_away(metrics.calls_in_flight)
        if overload is not None:
            busy = Unavailable(f"{overload}; try again shortly", retry_after_s=1)
            return self._failed(route, busy, request_id, sink)
        metrics.calls_in_flight += 1
        try:
            answer = await route.serve(caller, body, request_id, sink)
        except TollhouseError as error:
            note_refusal(self._uses, error, caller.principal.key_id, client)
            return self._failed(route, error, request_id, sink)
        except Exception:  # noqa: BLE001 - a defect here must not leave the caller without an answer
            _LOG.exception("a call failed on a defect", request_id=request_id)
            defect = InternalError("something went wrong here; it has been logged")
            return self._failed(route, defect, request_id, sink)
        finally:
            metrics.calls_in_flight -= 1
        metrics.answered(200, "")
        if answer is None:
            return None
        if answer.is_stream:
            # As it was streamed the first time, but with its length known.
            head = stream_headers(answer.request_id) + b"content-length: %d\r\n" % len(answer.body)
        else:
            head = _HEADERS % (len(answer.body), answer.request_id.encode())
        head += route.header_lines(answer.request_id, sink.standing)
        return 200, head + _REPLAYED if answer.replayed else head, answer.body

    def _failed(self, route: Route, error: TollhouseError, request_id: str, sink: Sink) -> HttpAnswer | None:
        self._metrics.answered(error.status, error.code)
        if sink.has_begun:
            # Nothing but comments has been sent, yet the status has gone with them.
            sink.end(route.stream_error(error, request_id))
            return None
        return _told(route, error, request_id, sink.standing)

    def new_request_id(self) -> str:
        return new_id("req", self._clock.now_ms())


def stream_headers(request_id: str) -> bytes:
    """Return the header lines of an answer in events, but for those that frame it."""
    return _STREAM_HEADERS % request_id.encode()


def _told(route: Route, error: TollhouseError, request_id: str, standing: tuple[Standing, ...] = ()) -> HttpAnswer:
    lines = route.header_lines(request_id, error.standing or standing)
    if isinstance(error, ProviderRejected) and error.relayed is not None:
        status, body = error.relayed
        return status, _HEADERS % (len(body), request_id.encode()) + lines, body
    status, headers, body = error_answer(error, request_id, route.error(error, request_id))
    return status, header_lines(headers) + lines, body
