"""Ids that sort by the time they were made, and the form of ids that callers choose."""

import os

# The largest run of digits every JSON reader keeps exact: below 2**53.
_EXACT_INTEGER_DIGITS = 15


def new_id(prefix: str, now_ms: int) -> str:
    """Return an id such as ``req_0199c3f1a2b4…``: 12 hex digits of milliseconds, then 64 random bits.

    Args:
        prefix: what the id names (``req``, ``key``), without the underscore.
        now_ms: milliseconds since the Unix epoch, from the injected clock.
    """
    return f"{prefix}_{now_ms:012x}{os.urandom(8).hex()}"


def id_text(value: int | str) -> str:
    """Return the text under which an outside id (tenant, user) is stored: ``42`` and ``"42"`` are the same."""
    return str(value)


def id_value(text: str) -> int | str:
    """Return a stored id as callers see it: ids made of digits come back as integers.

    Ids with a leading zero, or with more digits than a JSON number carries exactly, stay text:
    as a number they would name another id.

    >>> id_value("42"), id_value("042"), id_value("acme")
    (42, '042', 'acme')
    """
    if text.isascii() and text.isdigit() and len(text) <= _EXACT_INTEGER_DIGITS and (text[0] != "0" or text == "0"):
        return int(text)
    return text
