"""How long a prompt is: the bytes of what a vendor's tokenizer would read as text."""

from typing import Any

import msgspec

# Where parts, turns and items of any vendor keep texts, or lists and objects of such; whatever else they hold (types,
# ids, signatures, addresses, the bytes of images and documents) is no text.
_TEXTS = frozenset({
    "arguments", "code", "codeExecutionResult", "content", "context", "executableCode", "function", "functionCall",
    "functionResponse", "name", "output", "parts", "reasoning_content", "refusal", "summary", "text", "thinking",
    "title", "tool_calls",
})  # fmt: skip
# Where they keep an object that the model reads as JSON: what a tool was called with, and what it brought.
_OBJECTS = frozenset({"args", "input", "response"})


def text_bytes(content: Any) -> int:
    """Return the UTF-8 bytes of a text, or of all the texts in parts, turns or items."""
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, list):
        return sum(text_bytes(part) for part in content)
    return sum(_bytes_at(key, value) for key, value in content.items()) if isinstance(content, dict) else 0


def definition_bytes(tools: Any) -> int:
    """Return the bytes of definitions of tools, written as compactly as JSON can be."""
    return len(msgspec.json.encode(tools)) if tools else 0


def _bytes_at(key: str, value: Any) -> int:
    if key in _TEXTS:
        return text_bytes(value)
    if key in _OBJECTS:
        return text_bytes(value) if isinstance(value, str) else len(msgspec.json.encode(value))
    if key == "source" and isinstance(value, dict):
        # Anthropic's documents may be plain text, or parts of their own.
        return text_bytes(value.get("data") if value.get("type") == "text" else value.get("content"))
    return 0
