"""Bounds and estimates of tokens, from the text alone."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.providers.base import Message, Usage

# What vendors wrap around a turn; measured overheads are below 10 tokens. What they put around the whole call is
# configured (input_overhead_tokens), since some servers' templates bring a system prompt of their own.
_PER_MESSAGE_TOKENS = 16
# A schema makes some vendors add an instruction of a few hundred tokens, and some write it out with indentation.
_PER_SCHEMA_TOKENS = 1024
_SCHEMA_EXPANSION = 2
# English has about four bytes a token, other languages fewer; three errs on the side of the bill.
_BYTES_PER_TOKEN = 3


def utf8_bytes(text: str) -> int:
    """Return the length of a text in UTF-8, without encoding it where it is plain ASCII."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def max_input_tokens(messages: Sequence[Message], response_schema: dict[str, Any] | None) -> int:
    """Return an upper bound of the input tokens of a call, but for its model's ``input_overhead_tokens``.

    A token of a byte-level tokenizer stands for at least one byte, so there are at most as many as bytes, plus what
    the vendor wraps around.
    """
    tokens = _PER_MESSAGE_TOKENS * len(messages)
    for message in messages:
        tokens += utf8_bytes(message.content)
    if response_schema is not None:
        tokens += _SCHEMA_EXPANSION * len(msgspec.json.encode(response_schema)) + _PER_SCHEMA_TOKENS
    return tokens


def estimated_usage(messages: Sequence[Message], content: str, max_tokens: int) -> Usage:
    """Return what a call probably used, for a provider that reported nothing."""
    read = sum(utf8_bytes(message.content) for message in messages)
    return Usage(
        input_tokens=-(-read // _BYTES_PER_TOKEN),
        output_tokens=min(-(-utf8_bytes(content) // _BYTES_PER_TOKEN), max_tokens),
    )
