"""Errors in the shape that OpenAI's SDKs understand, for each of OpenAI's APIs."""

import re
from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest, TollhouseError

_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_FIELD = re.compile(r"([A-Za-z_][\w.\[\]-]*): ", re.ASCII)

_encode = msgspec.json.Encoder().encode


def error_object(error: TollhouseError) -> dict[str, Any]:
    """Return an error as OpenAI describes one, with Tollhouse's code as its ``code``."""
    kind = _TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
    field = _FIELD.match(error.message) if isinstance(error, InvalidRequest) else None
    return {
        "message": error.message,
        "type": kind,
        "param": field[1] if field else None,
        "code": error.code,
    }


def error_body(error: TollhouseError) -> bytes:
    """Return an error's body."""
    return _encode({"error": error_object(error)})
