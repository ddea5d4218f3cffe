"""The OpenAPI document: what the framework knows of the addresses, what msgspec knows of the bodies."""

from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc
from types import NoneType
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Response, post
from litestar.connection import ASGIConnection
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from litestar.routes import HTTPRoute

from tollhouse import errors
from tollhouse.apps import examples
from tollhouse.apps.answers import ErrorBody
from tollhouse.completions.model import CompleteBody, Envelope
from tollhouse.completions.wire.registry import GEMINI_VERBS
from tollhouse.errors import NotFound, TollhouseError

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_ERROR_SCHEMA = {"$ref": _REF.format(name=ErrorBody.__name__)}
_ERROR: dict[str, Any] = {
    "description": "An error of the public contract",
    "content": {_JSON: {"schema": _ERROR_SCHEMA}},
}
_REQUEST_ID = {"description": "names the request in the logs and in the ledger", "schema": {"type": "string"}}
_RETRY_AFTER = {
    "description": "after so many seconds a repeated call makes sense",
    "schema": {"type": "integer", "minimum": 1},
}
_REPLAYED = {
    "description": "it is the first answer under this Idempotency-Key, once more",
    "schema": {"type": "string", "enum": ["true"]},
}
_EVENTS = {"schema": {"type": "string"}, "example": examples.STREAM}
_STREAMED = (
    "The whole answer or, with `stream`, its events: `delta`, `usage`, then `done` with the whole answer, or `error`"
)
_RETRIED = frozenset({"409", "429", "503"})

COMPLETION_ERRORS = (
    errors.Unauthorized,
    errors.BudgetExceeded,
    errors.Forbidden,
    errors.ModuleInactive,
    errors.ModuleExpired,
    errors.FeatureDisabled,
    errors.TenantForbidden,
    errors.ModelForbidden,
    errors.ModelUnknown,
    errors.RequestTimeout,
    errors.IdempotencyInFlight,
    errors.RequestTooLarge,
    errors.InvalidRequest,
    errors.IdempotencyMismatch,
    errors.ModelUnpriced,
    errors.ProviderRejected,
    errors.GuardrailBlocked,
    errors.RateLimited,
    errors.HeadersTooLarge,
    errors.InternalError,
    errors.Unavailable,
    errors.CallTimeout,
)


def _responses(kinds: Iterable[type[TollhouseError]]) -> dict[int, ResponseSpec]:
    """Return the documentation of error answers, by status."""
    lines: dict[int, list[str]] = {}
    for kind in kinds:
        lines.setdefault(kind.status, []).append(f"`{kind.code}`: {kind.__doc__}")
    return {
        status: ResponseSpec(ErrorBody, generate_examples=False, description="\n\n".join(texts))
        for status, texts in lines.items()
    }


def operation_id(handler: HTTPRouteHandler, *_: object) -> str:
    """Name an operation after its handler: clients that are generated from the document name their functions so."""
    return handler.handler_name


COMPLETION_RESPONSES = _responses(COMPLETION_ERRORS)


def served_elsewhere(connection: ASGIConnection[Any, Any, Any, Any], _handler: object) -> None:
    """Refuse what the server did not take for a completion call, before its body is read."""
    if connection.scope["path"].startswith("/v1beta/"):
        raise NotFound(f"a model's name is followed by a colon and one of {', '.join(GEMINI_VERBS)}; see GET /docs")
    raise NotFound("completions are served at this address by POST, without a slash at the end; see GET /docs")


@post(
    "/ai/complete",
    status_code=200,
    guards=[served_elsewhere],
    tags=("Completions",),
    security=[{"bearer": []}],
    responses=COMPLETION_RESPONSES,
)
async def complete(
    data: JSONBody[CompleteBody],  # noqa: ARG001 - documented here, served elsewhere
    idempotency_key: Annotated[  # noqa: ARG001
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            max_length=255,
            description="the same key with the same body gets the first answer again, and never pays twice",
        ),
    ] = None,
) -> Envelope:
    """Complete a prompt: admitted, paid for and recorded before the answer is returned."""
    raise AssertionError("the guard lets nothing through")


def document(app: Litestar) -> dict[str, Any]:
    """Return an application's OpenAPI document.

    The framework's own schemas of bodies leave out bounds and descriptions, and call amounts strings; msgspec's are
    what is checked.
    """
    document = app.openapi_schema.to_schema()
    _, schemas = msgspec.json.schema_components([ErrorBody, *_bodies(app)], ref_template=_REF)
    document["components"]["schemas"] = _polished(schemas)
    for address, path in document["paths"].items():
        for operation in path.values():
            operation["summary"] = operation.pop("description", operation["summary"])
            # The framework's own form of a bad request, which is never sent.
            operation["responses"].pop("400", None)
            operation["responses"]["default"] = _ERROR
            for parameter in operation.get("parameters", []):
                _without_null(parameter)
            if address.startswith("/v1"):
                _shape_errors(operation)
            _illustrate(operation)
    complete = document["paths"]["/ai/complete"]["post"]["responses"]["200"]
    complete["description"] = _STREAMED
    complete["content"]["text/event-stream"] = _EVENTS
    complete["headers"]["Idempotent-Replayed"] = _REPLAYED
    followed = document["paths"]["/events"]["get"]["responses"]["200"]
    followed["description"] = "The next events or, unless JSON alone is accepted, all as they come"
    followed["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": examples.EVENTS}
    return document


def _shape_errors(operation: dict[str, Any]) -> None:
    """Say no more of errors at an existing client's address than is true of all: their shape is that client's."""
    for status, answer in operation["responses"].items():
        if status[0] != "2":
            operation["responses"][status] = {**answer, "content": {_JSON: {"schema": {"type": "object"}}}}


def _illustrate(operation: dict[str, Any]) -> None:
    """Add what the framework does not know of an operation: its headers, and examples."""
    name = operation["operationId"]
    _exemplify(operation.get("requestBody", {}), examples.SENT.get(name, {}))
    for status, answer in operation["responses"].items():
        headers = {"X-Request-Id": _REQUEST_ID} | ({"Retry-After": _RETRY_AFTER} if status in _RETRIED else {})
        operation["responses"][status] = answer = {**answer, "headers": headers}  # noqa: PLW2901 - some are shared
        if status[0] == "2":
            for media in answer.get("content", {}).values():
                # What fits more than one of them is no mistake, as it would be with oneOf.
                if "oneOf" in media.get("schema", {}):
                    media["schema"] = {"anyOf": media["schema"]["oneOf"]}
            _exemplify(answer, examples.ANSWERED.get(name, {}))
        elif status != "default" and answer["content"][_JSON]["schema"] == _ERROR_SCHEMA:
            _exemplify(answer, _told(int(status)))


def _told(status: int) -> dict[str, Any]:
    """Return what a completion call's errors of a status look like, by code."""
    codes = [kind.code for kind in COMPLETION_ERRORS if kind.status == status]
    return {
        code: {"error": code, "message": examples.MESSAGES[code], "request_id": examples.REQUEST_ID} for code in codes
    }


def _exemplify(part: dict[str, Any], found: Mapping[str, Any]) -> None:
    if found:
        part["content"][_JSON]["examples"] = {title: {"value": value} for title, value in found.items()}


def _bodies(app: Litestar) -> Iterator[Any]:
    """Yield the types that documented addresses take and return."""
    for route in app.routes:
        handlers = route.route_handlers if isinstance(route, HTTPRoute) else []
        for handler in handlers:
            if handler.resolve_include_in_schema():
                yield from _bodies_of(handler)


def _bodies_of(handler: HTTPRouteHandler) -> Iterator[Any]:
    if handler.parsed_data_field is not None:
        yield handler.parsed_data_field.annotation
    answer = handler.parsed_return_field
    if answer.is_subclass_of(Response):
        answer = answer.inner_types[0]
    for each in answer.inner_types if answer.is_union else [answer]:
        if not each.is_subclass_of((bytes, NoneType)):
            yield each.annotation


def _polished(schema: Any) -> Any:
    """Return a schema with amounts as the JSON numbers that they are sent as, and descriptions without indentation."""
    if isinstance(schema, list):
        return [_polished(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    polished = {name: _polished(value) for name, value in schema.items()}
    if polished.get("format") == "decimal":
        polished["type"] = "number"
    if isinstance(polished.get("description"), str):
        polished["description"] = cleandoc(polished["description"]).replace("``", "`")
    return polished


def _without_null(parameter: dict[str, Any]) -> None:
    """Correct a parameter that may be left out: its text cannot be null."""
    schema = parameter["schema"]
    choices = [choice for choice in schema.pop("oneOf", []) if choice["type"] != "null"]
    schema.update(*choices)
