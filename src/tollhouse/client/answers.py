"""What an answer's head says, for both clients."""

import math
import time

import msgspec

from tollhouse.client.errors import TollhouseError, UnexpectedAnswer, error_of
from tollhouse.client.model import Completion, GroupBy, GroupedUsage, Usage, read_completion, read_grouped_usage
from tollhouse.client.model import read_usage as read_total
from tollhouse.client.request import Request
from tollhouse.client.wire import Head

OK = 200


def refusal(head: Head, body: bytes) -> TollhouseError | None:
    """Return the error that an answer tells of, if it does."""
    if head.status == OK:
        return None
    return error_of(
        head.status,
        body,
        request_id=head.headers.get("x-request-id"),
        retry_after_s=retry_after_s(head.headers.get("retry-after")),
        may_be_billed=head.headers.get("x-should-retry", "").lower() == "false",
        replayed=is_replayed(head),
    )


def completion(request: Request, head: Head, body: bytes) -> Completion:
    """Read a whole answer; raises UnexpectedAnswer."""
    try:
        return read_completion(body, request.idempotency_key or "", replayed=is_replayed(head))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(head, error) from None


def usage(head: Head, body: bytes, group_by: GroupBy | None) -> Usage | GroupedUsage:
    """Read usage; raises UnexpectedAnswer."""
    try:
        return read_total(body) if group_by is None else read_grouped_usage(body, group_by)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(head, error) from None


def retry_after_s(text: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, or until the time that it names (RFC 9110 §10.2.3)."""
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        return _until_s(text)
    return wait_s if 0 <= wait_s < math.inf else None


def _until_s(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return max(0.0, until_s - time.time())


def is_replayed(head: Head) -> bool:
    """Whether an answer is the first one once more."""
    return head.headers.get("idempotent-replayed", "").lower() == "true"


def _unreadable(head: Head, error: Exception) -> UnexpectedAnswer:
    # The error's own text may show a part of the answer, which has no place in logs.
    return UnexpectedAnswer(
        f"the answer cannot be read ({type(error).__name__}); check the URL, and the gateways on the way",
        status=head.status,
        request_id=head.headers.get("x-request-id"),
    )
