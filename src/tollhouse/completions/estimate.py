"""Bounds and estimates of tokens, from the text alone."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.completions.weight import PER_MESSAGE_TOKENS, PER_SCHEMA_TOKENS, SCHEMA_EXPANSION
from tollhouse.providers.conversation import Message
from tollhouse.providers.usage import Usage

# English has about four bytes a token, other languages fewer; three errs on the side of the bill.
_BYTES_PER_TOKEN = 3


def utf8_bytes(text: str) -> int:
    """Return the length of a text in UTF-8, without encoding it where it is plain ASCII."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def text_bytes(messages: Sequence[Message]) -> int:
    """Return the bytes of the texts of a conversation without media."""
    return sum(utf8_bytes(message.content) for message in messages if isinstance(message.content, str))


def max_input_tokens(messages: Sequence[Message], response_schema: dict[str, Any] | None) -> int:
    """Return an upper bound of the input tokens of a call of plain texts, but for ``input_overhead_tokens``.

    A token of a byte-level tokenizer stands for at least one byte, so there are at most as many as bytes, plus what
    the vendor wraps around.
    """
    tokens = PER_MESSAGE_TOKENS * len(messages) + text_bytes(messages)
    if response_schema is not None:
        tokens += SCHEMA_EXPANSION * len(msgspec.json.encode(response_schema)) + PER_SCHEMA_TOKENS
    return tokens


def estimated_usage(prompt_bytes: int, answer_bytes: int, max_tokens: int) -> Usage:
    """Return what a call probably used, for a provider that reported nothing."""
    return Usage(
        input_tokens=-(-prompt_bytes // _BYTES_PER_TOKEN),
        output_tokens=min(-(-answer_bytes // _BYTES_PER_TOKEN), max_tokens),
    )
