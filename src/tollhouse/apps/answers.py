"""Errors as HTTP: the one form in which callers of every address learn that something went wrong."""

import math
from collections.abc import Iterable

import msgspec

from tollhouse.errors import TollhouseError


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong.

    Attributes:
        error: the code of the public contract, for programs.
        message: a sentence that a person can act on.
        request_id: names the request in the logs; also sent as ``X-Request-Id``.
    """

    error: str
    message: str
    request_id: str


_encode = msgspec.json.Encoder().encode


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they stand in an HTTP/1.1 head."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def error_answer(
    error: TollhouseError, request_id: str, body: bytes | None = None
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return the status, headers and body that tell of an error; a body of another shape than ours may be given.

    ``Retry-After`` is in whole seconds, rounded up and at least 1, so that nobody who heeds it comes too early.
    """
    if body is None:
        body = _encode(ErrorBody(error.code, error.message, request_id))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.may_be_billed:
        # OpenAI's and Anthropic's clients repeat any 5xx by themselves unless they are told not to.
        headers.append((b"x-should-retry", b"false"))
    if error.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return error.status, headers, body
