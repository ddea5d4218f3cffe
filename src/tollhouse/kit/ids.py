"""Ids that sort by the time they were made, and the form of ids that callers choose."""

import os
from random import Random
from secrets import randbits

MAX_INTEGER_ID = 2**63 - 1
"""The largest id that is an integer; longer runs of digits are text."""

# Ids name things and guard nothing, so a generator seeded once from the system does, at a tenth of the cost.
_random = Random(randbits(256))  # noqa: S311
# A process that was forked would go on to make the very ids that its parent makes.
os.register_at_fork(after_in_child=lambda: _random.seed(randbits(256)))


def new_id(prefix: str, now_ms: int) -> str:
    """Return an id such as ``req_0199c3f1a2b4…``: 12 hex digits of milliseconds, then 64 random bits.

    Args:
        prefix: what the id names (``req``, ``key``), without the underscore.
        now_ms: milliseconds since the Unix epoch, from the injected clock.
    """
    return f"{prefix}_{now_ms:012x}{_random.getrandbits(64):016x}"


def id_text(value: int | str) -> str:
    """Return the text under which an outside id (tenant, user) is stored: ``42`` and ``"42"`` are the same."""
    return str(value)


def id_value(text: str) -> int | str:
    """Return a stored id as callers see it: ids made of digits come back as integers.

    Ids with a leading zero stay text, as a number they would name another id; so do those over 64 bits.

    >>> id_value("42"), id_value("042"), id_value("acme")
    (42, '042', 'acme')
    """
    if text.isascii() and text.isdigit() and (text[0] != "0" or text == "0"):
        number = int(text)
        return number if number <= MAX_INTEGER_ID else text
    return text
