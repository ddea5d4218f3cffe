"""What messages and deltas of chat completions hold, read without trust: what is not understood is passed over."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any, Literal

import msgspec

from tollhouse.providers.conversation import FinishReason, ToolCall

_FINISH: dict[Any, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}

Kind = Literal["text", "thinking"]


def finish_reason(said: Any, *, has_calls: bool) -> FinishReason:
    """Return why a choice ended.

    An answer that calls tools ends for them, whatever it says of a regular end: OpenAI's own says ``stop`` where the
    tool was named in the request, and several compatible servers always do.
    """
    reason = _FINISH.get(said, "other") if isinstance(said, str) else "other"
    return "tool_calls" if has_calls and reason in {"stop", "other"} else reason


def pieces(content: Any) -> Iterator[tuple[Kind, str]]:
    """Return text and thinking of a ``content``: a text, or a list of typed parts as Mistral's servers send it."""
    if isinstance(content, str):
        yield "text", content
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            yield "text", part["text"]
        elif part.get("type") == "thinking":
            yield "thinking", "".join(text for _, text in pieces(part.get("thinking")))


def first_text(*candidates: Any) -> str:
    """Return the first candidate that is a text with something in it; "" if none is."""
    return next((text for text in candidates if isinstance(text, str) and text), "")


def tool_calls(entries: Any) -> Iterator[ToolCall]:
    """Return the calls of a message that name a function."""
    for entry in entries if isinstance(entries, list) else ():
        function = function_of(entry)
        name = first_text(function.get("name"))
        if name:
            call_id = first_text(entry.get("id")) or made_up_id()
            yield ToolCall(call_id, name, arguments_text(function.get("arguments")) or "{}", signature_of(entry))


def function_of(entry: Any) -> dict[str, Any]:
    """Return the ``function`` of a tool call; an empty one where there is none."""
    function = entry.get("function") if isinstance(entry, dict) else None
    return function if isinstance(function, dict) else {}


def arguments_text(arguments: Any) -> str:
    """Return arguments as the text that they are in OpenAI's format; some servers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else ""
    except RecursionError:
        return ""


def signature_of(entry: dict[str, Any]) -> str | None:
    """Return Google's thought signature of a tool call, where Google's compatible API puts it."""
    extra = entry.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


def made_up_id() -> str:
    """Return an id for a call that its server gave none, so that its result can be paired with it."""
    return f"call_{token_hex(12)}"
