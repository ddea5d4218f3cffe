"""Thinking of other vendors inside conversations of Anthropic's format, and how it is told from Anthropic's own.

A client of the Messages API sends back every thinking block it was given, and a vendor accepts none but its own. So
what is written for such a client from another vendor's answer is marked: the mark lets it through to that vendor
again, and has it left out where the conversation goes on with Anthropic itself, which would refuse it.
"""

from collections.abc import Mapping
from typing import Any

MARK = "tollhouse:"
"""What signatures and redacted thinking of other vendors begin with; alone, it stands for a missing signature."""

_CALL = f"{MARK}call:"


def marked_call(call_id: str, signature: str) -> str:
    """Return the redacted thinking that carries a tool call's signature, which has no place in Anthropic's format."""
    return f"{_CALL}{len(call_id)}:{call_id}{signature}"


def call_signature(data: str) -> tuple[str, str] | None:
    """Return the call's id and its signature from what ``marked_call`` made; None for anything else."""
    if not data.startswith(_CALL):
        return None
    length, _, rest = data.removeprefix(_CALL).partition(":")
    # At most four digits: a longer run of them is nobody's id, and may be more than int() takes.
    if not (length.isascii() and length.isdigit() and len(length) <= 4):
        return None
    return rest[: int(length)], rest[int(length) :]


def without_foreign(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without the thinking that is marked as another vendor's; the body itself is left as it is."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not any(map(_holds_foreign, messages)):
        return dict(body)
    kept = []
    for message in messages:
        if not _holds_foreign(message):
            kept.append(message)
        elif content := [block for block in message["content"] if not _is_foreign(block)]:
            kept.append({**message, "content": content})
    return {**body, "messages": kept}


def _holds_foreign(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(map(_is_foreign, content))


def _is_foreign(block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    match block.get("type"):
        case "thinking":
            proof = block.get("signature")
        case "redacted_thinking":
            proof = block.get("data")
        case _:
            return False
    return isinstance(proof, str) and proof.startswith(MARK)
