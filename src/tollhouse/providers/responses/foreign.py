"""Other vendors' answers inside the items of the Responses API, and how they are told from OpenAI's own.

``encrypted_content`` is the one field of a reasoning item that clients send back whole. OpenAI's own is sealed for
OpenAI and of no use to another vendor. What another vendor thought goes out with its signature in it, under a prefix:
it is told by that when it comes back, and is left out where the conversation goes on with OpenAI, which refuses it.
"""

from collections.abc import Mapping
from typing import Any

from tollhouse.providers.conversation import Thinking

_SIGNED = "tollhouse-signed:"
_REDACTED = "tollhouse-redacted:"


def sealed(thinking: Thinking) -> str:
    """Return what an item's ``encrypted_content`` becomes; the prefix alone for thinking that nobody has signed."""
    if thinking.redacted is not None:
        return _REDACTED + thinking.redacted
    return _SIGNED + (thinking.signature or "")


def unsealed(content: Any, text: str) -> Thinking | None:
    """Return the thinking of an item that came back; None where it is OpenAI's."""
    if not isinstance(content, str):
        return None
    if content.startswith(_REDACTED):
        return Thinking("", redacted=content.removeprefix(_REDACTED))
    return Thinking(text, content.removeprefix(_SIGNED) or None) if content.startswith(_SIGNED) else None


def without_foreign(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without what other vendors' answers left in it; the body itself is left as it is."""
    items = body.get("input")
    if not isinstance(items, list) or not any(map(_is_foreign, items)):
        return dict(body)
    return {**body, "input": [own for item in items if (own := _own(item)) is not None]}


def _own(item: Any) -> Any:
    if not _is_foreign(item):
        return item
    if item.get("type") == "reasoning":
        return None
    return {name: value for name, value in item.items() if name != "extra_content"}


def _is_foreign(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    if item.get("type") == "reasoning":
        sealed = item.get("encrypted_content")
        return isinstance(sealed, str) and sealed.startswith((_SIGNED, _REDACTED))
    # Google's signature of a call, which is Google's alone to read.
    return item.get("type") == "function_call" and "extra_content" in item
