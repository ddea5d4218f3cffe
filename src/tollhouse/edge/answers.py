"""What an edge answers by itself, written by the same code as the service's own answers, in each API's shape."""

from collections.abc import Callable, Sequence

import msgspec

from tollhouse import errors
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.errors import TollhouseError

RETRY_UNAVAILABLE_S = 2
"""When to try again after no instance could be reached."""


class _Malformed(errors.InvalidRequest):
    """What arrived is not HTTP."""

    status = 400


class Shape(msgspec.Struct, frozen=True):
    """The form of errors at some addresses.

    Attributes:
        pattern: of the path, as both PCRE and RE2 read it; the first shape that matches holds.
        write: makes an error's body from it and the request's id.
    """

    name: str
    pattern: str
    write: Callable[[TollhouseError, str], bytes]


def _native(error: TollhouseError, request_id: str) -> bytes:
    return msgspec.json.encode({"error": error.code, "message": error.message, "request_id": request_id})


SHAPES: Sequence[Shape] = (
    Shape("anthropic", "^/v1/messages(/|$)", CLIENT_APIS["/v1/messages"].error),
    Shape("google", "^/(v1beta|v1alpha)/|^/v1/models/[^/]+:", GEMINI_VERBS["generateContent"][0].error),
    Shape("openai", "^/v1/", CLIENT_APIS["/v1/chat/completions"].error),
    Shape("tollhouse", "", _native),
)


def own_answers(retry_limited_s: int) -> Sequence[TollhouseError]:
    """Return every error that an edge tells of, each with another status; their texts hold no quotes and no ``$%``."""
    return (
        _Malformed("what was sent is not valid HTTP"),
        errors.Unauthorized(
            "the service key is missing, unknown or revoked; expected one in the header Authorization: Bearer <key>"
        ),
        errors.TenantForbidden(
            "this key may not act for the tenant in X-Tenant-Id; expected one id of 1 to 64 printable characters"
        ),
        errors.NotFound("there is nothing at this address"),
        errors.RequestTimeout("the request did not arrive in time"),
        errors.RequestTooLarge("the body is over the limit"),
        errors.RateLimited("the tenant has reached its rate limit", retry_after_s=retry_limited_s),
        errors.HeadersTooLarge("the head of the request is over the limit"),
        errors.OutcomeUnknown(
            "the service was lost after the request was passed on, which may have been carried out and billed; sent "
            "again with the same Idempotency-Key it is never paid for twice",
            may_be_billed=True,
        ),
        errors.Unavailable("no instance of the service can be reached", retry_after_s=RETRY_UNAVAILABLE_S),
        errors.CallTimeout(
            "the service did not answer in time; the request may have been carried out and billed, and goes on",
            may_be_billed=True,
        ),
    )
