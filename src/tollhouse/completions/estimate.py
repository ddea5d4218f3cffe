"""Bounds and estimates of tokens, from the text alone."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.completions.weight import PER_MESSAGE_TOKENS, PER_SCHEMA_TOKENS, SCHEMA_EXPANSION, Weight
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


def probable_tokens(weight: Weight, max_tokens: int, *, image_tokens: int, window: int | None) -> int:
    """Return how many tokens a call probably uses if its answer is as long as it may be: what its limits are asked for.

    Of a text it is an estimate, unlike its ceiling, which counts each byte as a token: a limit of as many tokens as a
    call uses should let it pass. What is not used is given back, and what is used on top is owed.

    Args:
        image_tokens: the most that a picture counts as.
        window: the most that the model reads, which is what documents and searches of unknown size count as.
    """
    tokens = -(-weight.text_tokens // _BYTES_PER_TOKEN) + weight.images * image_tokens + weight.audio_tokens
    if window is not None and (weight.is_unbounded or weight.max_searches):
        tokens = max(tokens, window)
    return tokens + max_tokens


def estimated_usage(prompt_bytes: int, answer_bytes: int, max_tokens: int) -> Usage:
    """Return what a call probably used, for a provider that reported nothing."""
    return Usage(
        input_tokens=-(-prompt_bytes // _BYTES_PER_TOKEN),
        output_tokens=min(-(-answer_bytes // _BYTES_PER_TOKEN), max_tokens),
    )
