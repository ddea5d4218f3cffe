"""How far an adapter trusts what a provider sent: counts within reason, ids that print, and nothing that raises."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from tollhouse.providers.usage import Usage

# What decoding bytes of unknown origin can raise: bad JSON or types, text that is no UTF-8, endless nesting.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# No model takes or makes a billion tokens in one call: such a count is a defect, not a bill.
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]

# A field that was not sent.
ABSENT = msgspec.Raw(b"")

_REQUEST_ID_LENGTH = 128

_Reported = TypeVar("_Reported")


def usage_or_none(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[_Reported], classify: Callable[[_Reported], Usage]
) -> Usage | None:
    """Return a usage block in disjoint classes, or None when it is absent, malformed or contradicts itself.

    The block is decoded apart from the answer around it: a defect in it must not cost an answer that was paid for.

    Args:
        raw: the block as it was sent, or ``ABSENT``.
        decoder: reads the vendor's fields; its counts are of type ``Count``.
        classify: sorts the vendor's counts into classes; a negative class means that the counts contradict each other.
    """
    try:
        usage = classify(decoder.decode(raw))
    except UNREADABLE:
        return None
    fewest = min(msgspec.structs.astuple(usage))
    return usage if fewest >= 0 else None


def reports_use(raw: msgspec.Raw) -> bool:
    """Return whether a usage block beside an error says, or may say, that something was used.

    Only a block that is absent, or that holds nothing but zeros and empty values, says that nothing was. Names and
    kinds of values do not matter: some servers report a cost, or a count this version does not know.

    Args:
        raw: the block as it was sent, or ``ABSENT``.
    """
    if not bytes(raw):
        return False
    try:
        unseen = [msgspec.json.decode(raw)]
    except UNREADABLE:
        return True
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            unseen.extend(value.values())
        elif isinstance(value, list):
            unseen.extend(value)
        elif value:
            return True
    return False


def first_id(*candidates: Any) -> str | None:
    """Return the first candidate that is a printable text, as the provider's id of a call."""
    for candidate in candidates:
        if isinstance(candidate, str) and candidate and candidate.isprintable():
            return candidate[:_REQUEST_ID_LENGTH]
    return None
