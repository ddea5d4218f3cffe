"""How many tokens a call of the fake provider costs."""

import math
import re
from typing import Any

import msgspec

from tollhouse.testing.behaviour import Behaviour, Tokens, ToolCall

NO_LIMIT = 4096
"""What a call without a limit is limited to."""

_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")
_JSON_PIECE = re.compile(r"\w+|\W+")


class Call(msgspec.Struct, frozen=True):
    """What a fake provider reads in a request of any format."""

    model: str
    prompt_bytes: int
    """UTF-8 bytes of all the prompt's texts and tool definitions."""
    max_tokens: int = NO_LIMIT
    """0 for what has no output."""
    prompt_tokens: int = 0
    """What of the prompt came as tokens."""
    is_streamed: bool = False
    details: Any = None
    """What the format that read the call needs to know when it writes the answer."""


class Bill(msgspec.Struct, frozen=True):
    """What an answer holds and costs."""

    content: str
    """The text; empty where a tool is called."""
    tokens: Tokens
    cut_short: bool
    """The output reached the limit."""
    tool_call: ToolCall | None = None

    @property
    def arguments(self) -> str:
        """The tool call's arguments as JSON."""
        return "{}" if self.tool_call is None else msgspec.json.encode(self.tool_call.arguments).decode()


def bill(call: Call, behaviour: Behaviour) -> Bill:
    """Return what a call costs when it is answered as told, before any class that its format lacks is folded."""
    limit = call.max_tokens
    called = behaviour.tool_call
    words = behaviour.content.split() if called is None else []
    wanted = behaviour.output_tokens
    if wanted is None:
        wanted = len(words) if called is None else 1 + len(_pieces_of(called))
    if behaviour.output_factor is not None:
        limit = wanted = math.ceil(limit * behaviour.output_factor)
    elif behaviour.use_full_max_tokens:
        wanted = limit
    reasoning = min(behaviour.reasoning_tokens, limit)
    output = min(wanted, limit - reasoning)
    fresh = behaviour.input_tokens
    if fresh is None:
        fresh = math.ceil(call.prompt_bytes / behaviour.bytes_per_token) + call.prompt_tokens
    content = "" if called is not None else behaviour.content
    if len(words) > output:
        content = " ".join(words[:output])
    tokens = Tokens(
        input_tokens=fresh,
        cached_input_tokens=behaviour.cached_input_tokens,
        cache_write_tokens=behaviour.cache_write_tokens,
        cache_write_1h_tokens=behaviour.cache_write_1h_tokens,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )
    if behaviour.usage == "zero":
        tokens = Tokens()
    return Bill(content=content, tokens=tokens, cut_short=output + reasoning >= limit, tool_call=called)


def text_pieces(text: str) -> list[str]:
    """Cut a text into its words, each with the space before it; together they are the text."""
    return _WORD.findall(text) or ([text] if text else [])


def json_pieces(text: str) -> list[str]:
    """Cut a JSON text into its words and what stands between them, about as models write it."""
    return _JSON_PIECE.findall(text)


def _pieces_of(called: ToolCall) -> list[str]:
    return json_pieces(msgspec.json.encode(called.arguments).decode())
