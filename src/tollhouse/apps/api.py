"""The API process's ASGI application: the hot path first, the control plane for everything else."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from tollhouse.apps.answers import error_answer
from tollhouse.completions.routes import ClientGone, CompleteRoute
from tollhouse.errors import InternalError, MethodNotAllowed, TollhouseError
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.telemetry.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

_COMPLETE_PATH = "/ai/complete"
_JSON = (b"content-type", b"application/json")
_LOG = structlog.get_logger("tollhouse.api")


class Api:
    """Serves completion calls itself, and hands every other request to the control plane."""

    def __init__(self, complete: CompleteRoute, control_plane: AsgiApp, metrics: Metrics, clock: Clock) -> None:
        self._complete = complete
        self._control_plane = control_plane
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _COMPLETE_PATH:
            await self._serve_completion(scope, receive, send)
        else:
            await self._control_plane(scope, receive, send)

    async def _serve_completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id("req", self._clock.now_ms())
        metrics = self._metrics
        metrics.calls_in_flight += 1
        try:
            status, headers, body = await self._answer(scope, receive, request_id)
        except ClientGone:
            return
        finally:
            metrics.calls_in_flight -= 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> tuple[int, RawHeaders, bytes]:
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("completions are asked for with POST")
            answer = await self._complete.serve(scope["headers"], receive, request_id)
        except TollhouseError as error:
            self._metrics.answered(error.status, error.code)
            return error_answer(error, request_id)
        except ClientGone:
            raise
        except Exception:
            _LOG.exception("a call failed on a defect", request_id=request_id)
            self._metrics.answered(InternalError.status, InternalError.code)
            return error_answer(InternalError("something went wrong here; it has been logged"), request_id)
        self._metrics.answered(200, "")
        headers = [
            _JSON,
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", answer.request_id.encode()),
        ]
        if answer.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return 200, headers, answer.body
