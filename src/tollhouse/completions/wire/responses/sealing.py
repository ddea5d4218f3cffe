"""Signatures of thinking within ``encrypted_content``, the one field of a reasoning item that clients send back whole.

OpenAI's own is sealed for OpenAI and of no use to another vendor. A signature of another vendor goes out in it under a
prefix, and is told by that when it comes back.
"""

from typing import Any

from tollhouse.providers.conversation import Thinking

_SIGNED = "tollhouse-signed:"
_REDACTED = "tollhouse-redacted:"


def sealed(thinking: Thinking) -> str | None:
    """Return what an item's ``encrypted_content`` becomes; None for thinking that nobody has signed."""
    if thinking.redacted is not None:
        return _REDACTED + thinking.redacted
    return None if thinking.signature is None else _SIGNED + thinking.signature


def unsealed(content: Any, text: str) -> Thinking | None:
    """Return the thinking of an item that came back; None where it is OpenAI's, or nobody's."""
    if not isinstance(content, str):
        return None
    if content.startswith(_REDACTED):
        return Thinking("", redacted=content.removeprefix(_REDACTED))
    return Thinking(text, content.removeprefix(_SIGNED)) if content.startswith(_SIGNED) else None
