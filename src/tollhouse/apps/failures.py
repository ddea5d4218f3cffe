"""What goes wrong in a handler or in the framework, told as the errors of the public contract."""

from typing import Any

import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException, MethodNotAllowedException, ValidationException
from litestar.types import ExceptionHandlersMap, Scope

from tollhouse.apps.answers import error_answer
from tollhouse.apps.noting import note_refusal
from tollhouse.completions.wire.registry import api_around
from tollhouse.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    TollhouseError,
)
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id

# How the framework says that a body ended early; nobody is left to read the answer, and nothing here is at fault.
_CLIENT_LEFT = "client disconnected prematurely"
_LOG = structlog.get_logger("tollhouse.control")
_Request = Request[Any, Any, State]


def request_id_of(scope: Scope) -> str:
    """Return the id of a request, made when it is first asked for."""
    clock: Clock = scope["litestar_app"].state["clock"]
    request_id: str = scope["state"].setdefault("request_id", new_id("req", clock.now_ms()))
    return request_id


def _tell(request: _Request, error: TollhouseError) -> Response[bytes]:
    principal: Principal | None = request.scope.get("user")
    note_refusal(
        request.app.state["uses"], error, "" if principal is None else principal.key_id, request.scope["client"]
    )
    scope = request.scope
    request_id, api = request_id_of(scope), api_around(scope["path"], scope["headers"])
    # At the addresses of existing clients, served or not, an error has the shape that they can read.
    shaped = None if api is None else api.error(error, request_id)
    status, headers, body = error_answer(error, request_id, shaped)
    # The id is on every answer already.
    named = {name.decode(): value.decode() for name, value in headers if name != b"x-request-id"}
    return Response(body, status_code=status, headers=named, media_type="application/json")


def _tell_of_framework(request: _Request, error: HTTPException) -> Response[bytes]:
    """Translate the framework's own refusals."""
    if isinstance(error, InternalServerException) and error.detail == _CLIENT_LEFT:
        return _tell(request, InvalidRequest("the request's body did not arrive whole"))
    if error.status_code >= 500:
        return _tell_of_defect(request, error)
    answer = _tell(request, _translated(request, error))
    if isinstance(error, MethodNotAllowedException):
        answer.set_header("allow", (error.headers or {}).get("allow", ""))
    return answer


def _translated(request: _Request, error: HTTPException) -> TollhouseError:
    match error.status_code:
        case 404:
            return NotFound(f"there is nothing at {request.scope['path']}; GET /docs lists what there is")
        case 405:
            allowed = (error.headers or {}).get("allow", "another method")
            return MethodNotAllowed(f"{request.method} is not served here; expected {allowed}")
        case 413:
            return RequestTooLarge("the body is over the limit of this address")
        case _:
            return InvalidRequest(_problem(error))


def _problem(error: HTTPException) -> str:
    """Return what is wrong with a request, beginning with the parameter."""
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        what = str(first["message"]).replace(" | null", "")
        return f"{first.get('key', 'the request')}: {what[:1].lower()}{what[1:]}"
    return error.detail


def _tell_of_defect(request: _Request, error: Exception) -> Response[bytes]:
    """Log what nobody expected, without the request's body, and tell the caller under which id."""
    _LOG.error(
        "a request failed on a defect",
        request_id=request_id_of(request.scope),
        method=request.method,
        path=request.scope["path"],
        exc_info=error,
    )
    return _tell(request, InternalError("something went wrong here; it has been logged under this request_id"))


HANDLERS: ExceptionHandlersMap = {
    TollhouseError: _tell,
    HTTPException: _tell_of_framework,
    Exception: _tell_of_defect,
}
"""What the framework is to do with each kind of exception."""
