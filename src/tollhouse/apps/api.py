"""Completion calls as HTTP: every outcome becomes an answer with its status, headers and body."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import structlog

from tollhouse.apps.answers import error_answer, header_lines
from tollhouse.completions.routes import Caller, CompleteRoute
from tollhouse.errors import InternalError, TollhouseError
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.telemetry.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]
HttpAnswer = tuple[int, bytes, bytes]
"""Status, header lines and body."""

_HEADERS = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
_REPLAYED = b"idempotent-replayed: true\r\n"
_LOG = structlog.get_logger("tollhouse.api")


class CompletionEndpoint:
    """Answers completion calls; the HTTP server hands them over whole."""

    def __init__(self, route: CompleteRoute, metrics: Metrics, clock: Clock) -> None:
        self._route = route
        self._metrics = metrics
        self._clock = clock

    def identify(self, headers: RawHeaders) -> Caller:
        """Find out who calls; raises TollhouseError, which ``refuse`` turns into an answer."""
        return self._route.identify(headers)

    def refuse(self, error: TollhouseError) -> HttpAnswer:
        """Return the answer to a request that is turned away."""
        self._metrics.answered(error.status, error.code)
        return _told(error, self._request_id())

    async def answer(self, caller: Caller, body: bytes) -> HttpAnswer:
        """Serve a call. Never raises, but for cancellation."""
        request_id = self._request_id()
        metrics = self._metrics
        metrics.calls_in_flight += 1
        try:
            answer = await self._route.serve(caller, body, request_id)
        except TollhouseError as error:
            metrics.answered(error.status, error.code)
            return _told(error, request_id)
        except Exception:  # noqa: BLE001 - a defect here must not leave the caller without an answer
            _LOG.exception("a call failed on a defect", request_id=request_id)
            metrics.answered(InternalError.status, InternalError.code)
            return _told(InternalError("something went wrong here; it has been logged"), request_id)
        finally:
            metrics.calls_in_flight -= 1
        metrics.answered(200, "")
        head = _HEADERS % (len(answer.body), answer.request_id.encode())
        return 200, head + _REPLAYED if answer.replayed else head, answer.body

    def _request_id(self) -> str:
        return new_id("req", self._clock.now_ms())


def _told(error: TollhouseError, request_id: str) -> HttpAnswer:
    status, headers, body = error_answer(error, request_id)
    return status, header_lines(headers), body
