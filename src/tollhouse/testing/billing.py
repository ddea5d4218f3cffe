"""How many tokens a call of the fake provider costs."""

import math

import msgspec

from tollhouse.testing.behaviour import Behaviour, Tokens

# What a call without a limit is limited to.
_NO_LIMIT = 4096


class Call(msgspec.Struct, frozen=True):
    """What a fake provider reads in a request of any format."""

    model: str
    prompt_bytes: int
    """UTF-8 bytes of all the prompt's texts."""
    max_tokens: int = _NO_LIMIT


class Bill(msgspec.Struct, frozen=True):
    """What an answer holds and costs."""

    content: str
    tokens: Tokens
    cut_short: bool
    """The output reached the limit."""


def bill(call: Call, behaviour: Behaviour) -> Bill:
    """Return what a call costs when it is answered as told, before any class that its format lacks is folded."""
    limit = call.max_tokens
    words = behaviour.content.split()
    wanted = len(words) if behaviour.output_tokens is None else behaviour.output_tokens
    if behaviour.output_factor is not None:
        limit = wanted = math.ceil(limit * behaviour.output_factor)
    elif behaviour.use_full_max_tokens:
        wanted = limit
    reasoning = min(behaviour.reasoning_tokens, limit)
    output = min(wanted, limit - reasoning)
    fresh = behaviour.input_tokens
    if fresh is None:
        fresh = math.ceil(call.prompt_bytes / behaviour.bytes_per_token)
    content = behaviour.content if len(words) <= output else " ".join(words[:output])
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
    return Bill(content=content, tokens=tokens, cut_short=output + reasoning >= limit)
