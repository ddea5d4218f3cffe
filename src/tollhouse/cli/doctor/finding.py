"""What an examination found."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        status: ``failed`` keeps the service, or a part of it, from working; ``warning`` will surprise somebody.
        advice: what to do about it; "" for what is well.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, advice: str) -> Finding:
    """Return a finding that something may surprise."""
    return Finding(check, "warning", message, advice)


def failed(check: str, message: str, advice: str) -> Finding:
    """Return a finding that something cannot work."""
    return Finding(check, "failed", message, advice)
