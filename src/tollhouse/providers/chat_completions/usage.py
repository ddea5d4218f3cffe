"""The ``usage`` of a chat completion, in disjoint classes."""

import msgspec

from tollhouse.providers.parsing import Count, usage_or_none
from tollhouse.providers.usage import Usage


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None


class ReportedUsage(msgspec.Struct):
    """The ``usage`` of an answer."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_decoder = msgspec.json.Decoder(ReportedUsage)


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """Return a usage block in OpenAI's counting, or None where it cannot be read."""
    return usage_or_none(raw, _decoder, classify)


def classify(reported: ReportedUsage) -> Usage:
    """Sort OpenAI's counts: input includes both cache classes and sound, output includes reasoning and sound.

    xAI's servers and Gemini's compatible ones leave reasoning out of ``completion_tokens``, as shows in a total above
    the sum, or in more reasoning than output; theirs is taken as additional.
    """
    details = reported.prompt_tokens_details or _InputDetails()
    cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    out = reported.completion_tokens_details or _OutputDetails()
    output, reasoning, spoken = reported.completion_tokens, out.reasoning_tokens or 0, out.audio_tokens or 0
    beyond = (reported.total_tokens or 0) - reported.prompt_tokens - output
    if beyond > 0 or reasoning > output:
        reasoning = max(reasoning, beyond)
    else:
        output -= reasoning
    fresh = reported.prompt_tokens - cached - written
    heard = _heard(details.audio_tokens or 0, fresh, reported.prompt_tokens)
    return Usage(
        input_tokens=fresh - heard,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output - spoken,
        reasoning_tokens=reasoning,
        audio_input_tokens=heard,
        audio_output_tokens=spoken,
    )


def _heard(sound: int, fresh: int, prompt: int) -> int:
    """Return the sound that was read in full: OpenAI counts what came from the cache among both.

    How much that was is not told; what surely was, because the counts would exceed the prompt otherwise, is taken as
    cached. Sound beyond the whole prompt contradicts it, and is left to be found out as such.
    """
    return sound if sound > prompt or fresh < 0 else min(sound, fresh)
