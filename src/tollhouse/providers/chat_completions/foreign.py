"""What answers of other vendors leave in a conversation of this format, and servers refuse that know no such fields.

A client sends an assistant's message back as it got it. One that another vendor's model made has its thinking in
``thinking_blocks``, with that vendor's signatures, and beside them in ``reasoning_content``; Google's calls have their
signatures in ``extra_content``.
"""

from collections.abc import Mapping
from typing import Any

_THOUGHT = ("thinking_blocks", "reasoning_content")


def without_foreign(body: Mapping[str, Any], *, keeps_thinking: bool = False) -> Mapping[str, Any]:
    """Return a request without what other vendors' models left in it; the body itself is left as it is.

    Args:
        keeps_thinking: the server itself answers with ``reasoning_content``; what no other vendor signed is its own.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    kept = [_own(message, keeps_thinking=keeps_thinking) for message in messages]
    return body if all(map(_is_same, kept, messages)) else {**body, "messages": kept}


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _own(message: Any, *, keeps_thinking: bool) -> Any:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    own: dict[str, Any] = message
    if "thinking_blocks" in message or ("reasoning_content" in message and not keeps_thinking):
        own = {name: value for name, value in message.items() if name not in _THOUGHT}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and any(map(_is_signed, calls)):
        own = {**own, "tool_calls": [_unsigned(call) if _is_signed(call) else call for call in calls]}
    return own


def _is_signed(call: Any) -> bool:
    return isinstance(call, dict) and "extra_content" in call


def _unsigned(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "extra_content"}
