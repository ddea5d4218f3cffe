"""Patterns that operators bring along: bounded, and in a syntax that no text can make slow.

They are RE2's, whose matching takes time in proportion to the text, whatever the pattern.
"""

import re

MAX_PATTERN_CHARS = 500
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = frozenset({"email", "phone", "card", "iban", "passport", "nin", "secret"})
# What a pattern may grow to inside: a repetition of repetitions is refused rather than unrolled into gigabytes.
_MAX_PROGRAM_BYTES = 1024 * 1024


def is_pattern_name(text: str) -> bool:
    """Whether an operator may call a pattern so: it becomes part of placeholders and of metrics."""
    return _NAME.fullmatch(text) is not None and text not in _TAKEN


def is_own_pattern(text: str) -> bool:
    """Whether a pattern can be used: it is short, RE2 knows its syntax, and it finds something to take out."""
    if not 0 < len(text) <= MAX_PATTERN_CHARS:
        return False
    try:
        return compiled(text).fullmatch("") is None
    except ValueError:
        return False


def compiled(text: str) -> "re.Pattern[str]":
    """Return a pattern, compiled; raises ValueError where RE2 does not know it."""
    # Few have patterns of their own; the others need not load RE2.
    import re2

    options = re2.Options()
    options.max_mem = _MAX_PROGRAM_BYTES
    options.log_errors = False
    try:
        pattern: re.Pattern[str] = re2.compile(text, options)
    except re2.error as error:
        raise ValueError(str(error)) from None
    return pattern
