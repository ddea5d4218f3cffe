"""Errors as Google writes them (https://google.aip.dev/193)."""

from typing import Any

import msgspec

from tollhouse.errors import TollhouseError

# The word of Google's that fits each HTTP status; a budget that is used up is an exhausted resource.
_WORDS = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    410: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    502: "UNKNOWN",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."


def error_body(error: TollhouseError, request_id: str) -> bytes:
    """Write an error's body."""
    details: list[dict[str, Any]] = [
        {"@type": f"{_TYPE}ErrorInfo", "reason": error.code, "domain": "tollhouse"},
        {"@type": f"{_TYPE}RequestInfo", "requestId": request_id},
    ]
    if error.retry_after_s is not None:
        details.append(
            {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{error.retry_after_s:.3f}".rstrip("0").rstrip(".") + "s"}
        )
    word = _WORDS.get(error.status, "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    return msgspec.json.encode(
        {"error": {"code": error.status, "message": error.message, "status": word, "details": details}}
    )
