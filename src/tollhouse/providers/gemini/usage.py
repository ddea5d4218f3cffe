"""How Google counts tokens and searches, sorted into classes."""

from collections import Counter
from typing import Any

import msgspec

from tollhouse.providers.gemini.generations import generation_of
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, usage_or_none
from tollhouse.providers.usage import Usage


class _Modality(msgspec.Struct, rename="camel"):
    modality: str
    token_count: Count = 0


class _Reported(msgspec.Struct, rename="camel"):
    # Counts of zero are left out, as everywhere in Google's JSON; but no prompt is empty.
    prompt_token_count: Count
    cached_content_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0
    total_token_count: Count = 0
    # Read apart: a defect in the details must not cost the counts that they only divide.
    prompt_tokens_details: msgspec.Raw = ABSENT
    cache_tokens_details: msgspec.Raw = ABSENT
    tool_use_prompt_tokens_details: msgspec.Raw = ABSENT
    candidates_tokens_details: msgspec.Raw = ABSENT


class _Embedded(msgspec.Struct, rename="camel"):
    prompt_token_count: Count
    # The one place where Google's name for it has no second plural.
    prompt_token_details: msgspec.Raw = ABSENT


_decoder = msgspec.json.Decoder(_Reported)
_embedded_decoder = msgspec.json.Decoder(_Embedded)
_details_decoder = msgspec.json.Decoder(list[_Modality])


def read_usage(block: msgspec.Raw, searches: int) -> Usage | None:
    """Return a ``usageMetadata`` in classes with the searches beside it, or None where it cannot be read."""
    usage = usage_or_none(block, _decoder, _classify)
    return msgspec.structs.replace(usage, web_searches=searches) if usage is not None and searches else usage


def read_embedding_usage(block: msgspec.Raw) -> Usage | None:
    """Return the ``usageMetadata`` of embeddings in classes, or None where there is none that can be read."""
    return usage_or_none(block, _embedded_decoder, _classify_embedded)


def _classify_embedded(reported: _Embedded) -> Usage:
    sound, pictures = _apart(reported.prompt_token_count, reported.prompt_token_details)
    return Usage(
        input_tokens=reported.prompt_token_count - sound - pictures,
        audio_input_tokens=sound,
        image_input_tokens=pictures,
    )


def _classify(reported: _Reported) -> Usage:
    """Sort Google's counts: the prompt includes what was cached, output excludes thoughts, tool results are input.

    What a total counts beyond the sum of its parts was made by the model: some previews have not itemised thoughts.
    Moving pictures and documents cost what text does, and are counted with it.
    """
    prompt = reported.prompt_token_count + reported.tool_use_prompt_token_count
    output = reported.candidates_token_count + reported.thoughts_token_count
    beyond = max(reported.total_token_count - prompt - output, 0)
    fresh = prompt - reported.cached_content_token_count
    sound, pictures = _apart(
        fresh,
        reported.prompt_tokens_details,
        reported.tool_use_prompt_tokens_details,
        without=reported.cache_tokens_details,
    )
    sound_out, pictures_out = _apart(reported.candidates_token_count, reported.candidates_tokens_details)
    return Usage(
        input_tokens=fresh - sound - pictures,
        cached_input_tokens=reported.cached_content_token_count,
        output_tokens=reported.candidates_token_count - sound_out - pictures_out,
        reasoning_tokens=reported.thoughts_token_count + beyond,
        audio_input_tokens=sound,
        image_input_tokens=pictures,
        audio_output_tokens=sound_out,
        image_output_tokens=pictures_out,
    )


def _apart(total: int, *details: msgspec.Raw, without: msgspec.Raw = ABSENT) -> tuple[int, int]:
    """Return the sound and the pictures among a total, which they cannot exceed whatever the details say."""
    sound, pictures = 0, 0
    for each in details:
        heard, seen = _modalities(each)
        sound, pictures = sound + heard, pictures + seen
    if not sound and not pictures:
        return 0, 0
    heard, seen = _modalities(without)
    sound = min(max(sound - heard, 0), max(total, 0))
    return sound, min(max(pictures - seen, 0), max(total, 0) - sound)


def _modalities(details: msgspec.Raw) -> tuple[int, int]:
    """Return the tokens of sound and of pictures; none of either where the details cannot be read."""
    raw = bytes(details)
    if b"AUDIO" not in raw and b"IMAGE" not in raw:
        return 0, 0  # As in almost every answer, which therefore costs nothing more to read.
    try:
        counted = _details_decoder.decode(raw)
    except UNREADABLE:
        return 0, 0
    sound = sum(each.token_count for each in counted if each.modality == "AUDIO")
    return sound, sum(each.token_count for each in counted if each.modality == "IMAGE")


class Searches:
    """Counts an answer's uses of Google Search as Google bills them.

    Up to its second generation a model's grounded answer is one use, however many queries it took; from the third on,
    each query is one.
    """

    def __init__(self) -> None:
        self._queries: Counter[str] = Counter()

    def add(self, grounding: Any) -> None:
        """Take a candidate's ``groundingMetadata``; in a stream it comes in pieces, or again and again as it grows."""
        queries = grounding.get("webSearchQueries") if isinstance(grounding, dict) else None
        if isinstance(queries, list):
            self._queries |= Counter(query for query in queries if isinstance(query, str) and query)

    def count(self, model_version: Any) -> int:
        if not self._queries:
            return 0
        queries = self._queries.total()
        is_by_query = not isinstance(model_version, str) or generation_of(model_version) >= 3
        return queries if is_by_query else min(queries, 1)
