"""Reading a provider's own usage export into buckets whose token classes are disjoint.

What the file holds tells its format: OpenAI's usage API, Anthropic's usage report, DeepSeek's ``amount-….csv``, or
CSV as docs/operations.md describes it. Everything here raises ValueError with the place and what was expected.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tollhouse.kit.clock import epoch_ms
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import UsageBucket
from tollhouse.reconciliation.spreadsheets import read_csv

T = TypeVar("T")
_Count = Annotated[int, Meta(ge=0)]
_EpochSeconds = Annotated[int, Meta(ge=0, lt=10**11)]
_ZonedTime = Annotated[datetime, Meta(tz=True)]
_MS_PER_S = 1000


class _Page(msgspec.Struct):
    data: list[Any]


class _OpenAiResult(msgspec.Struct):
    input_tokens: _Count
    output_tokens: _Count
    num_model_requests: _Count
    model: str | None = None
    input_cached_tokens: _Count | None = None
    input_cache_write_tokens: _Count | None = None


class _OpenAiBucket(msgspec.Struct):
    start_time: _EpochSeconds
    end_time: _EpochSeconds
    results: list[_OpenAiResult]


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: _Count = 0
    ephemeral_1h_input_tokens: _Count = 0


class _ServerToolUse(msgspec.Struct):
    web_search_requests: _Count = 0


class _AnthropicResult(msgspec.Struct):
    uncached_input_tokens: _Count
    cache_read_input_tokens: _Count
    output_tokens: _Count
    cache_creation: _CacheCreation
    model: str | None = None
    server_tool_use: _ServerToolUse | None = None


class _AnthropicBucket(msgspec.Struct):
    starting_at: _ZonedTime
    ending_at: _ZonedTime
    results: list[_AnthropicResult]


def read_export(text: str) -> list[UsageBucket]:
    """Return what an export says, in its order.

    Where a format leaves out the models that were not used in a span, those that the export names elsewhere are given
    there with no usage: their calls of unknown outcome were not billed.

    Raises:
        ValueError: it is in none of the formats, or something in it is missing or out of range.
    """
    content = text.removeprefix("\ufeff")
    if content.lstrip()[:1] in {"{", "["}:
        return _with_idle_models(list(_from_pages(list(_pages(content)))))
    return read_csv(content)


def _pages(content: str) -> Iterator[Any]:
    """Yield the pages of an API's answer: one, a list of them, or one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while rest := content[place:].lstrip():
        place = len(content) - len(rest)
        try:
            value, place = decoder.raw_decode(content, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno}: {error.msg}; expected the JSON of a usage API") from None
        except RecursionError:
            raise ValueError("it is nested too deeply; expected the JSON of a usage API") from None
        yield from value if isinstance(value, list) else [value]


def _from_pages(pages: list[Any]) -> Iterator[UsageBucket]:
    seen: set[tuple[int, int]] = set()
    for number, page in enumerate(pages, start=1):
        for index, bucket in enumerate(_checked(page, _Page, f"page {number}").data):
            where = f"page {number}, data[{index}]"
            start_ms, end_ms, found = _bucket(bucket, where)
            if (start_ms, end_ms) in seen:
                raise ValueError(f"{where}: this span was given before; expected each page once")
            seen.add((start_ms, end_ms))
            yield from found
            if not found:
                yield _empty("", start_ms, end_ms)


def _bucket(bucket: Any, where: str) -> tuple[int, int, list[UsageBucket]]:
    """Return the span of a bucket of either API, and what was used in it by model."""
    fields = bucket if isinstance(bucket, dict) else {}
    if "starting_at" in fields:
        report = _checked(bucket, _AnthropicBucket, where)
        start_ms, end_ms = epoch_ms(report.starting_at), epoch_ms(report.ending_at)
        rows: list[tuple[str | None, int | None, Usage, bool]] = [
            (result.model, None, _of_anthropic(result), result.server_tool_use is not None) for result in report.results
        ]
    elif "start_time" in fields:
        usage = _checked(bucket, _OpenAiBucket, where)
        start_ms, end_ms = usage.start_time * _MS_PER_S, usage.end_time * _MS_PER_S
        rows = [
            (result.model, result.num_model_requests, _of_openai(result, f"{where}.results[{index}]"), False)
            for index, result in enumerate(usage.results)
        ]
    else:
        raise ValueError(f"{where}: expected start_time (OpenAI) or starting_at (Anthropic)")
    if start_ms >= end_ms:
        raise ValueError(f"{where}: ends before it begins")
    return (
        start_ms,
        end_ms,
        [
            UsageBucket(
                model=_named(model, f"{where}.results[{index}]"),
                start_ms=start_ms,
                end_ms=end_ms,
                requests=requests,
                usage=used,
                splits_reasoning=False,
                counts_searches=counts_searches,
            )
            for index, (model, requests, used, counts_searches) in enumerate(rows)
        ],
    )


def _checked(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise ValueError(f"{where}{path.rstrip('`')}: {what[:1].lower()}{what[1:]}") from None


def _named(model: str | None, where: str) -> str:
    if not model:
        raise ValueError(f"{where}.model: is missing; expected an export grouped by model (group_by=model)")
    return model


def _of_openai(result: _OpenAiResult, where: str) -> Usage:
    """Sort OpenAI's counts: input includes both cache classes, and like output it includes sound and pictures."""
    cached, written = result.input_cached_tokens or 0, result.input_cache_write_tokens or 0
    if cached + written > result.input_tokens:
        raise ValueError(f"{where}.input_tokens: expected at least its cached tokens, {cached + written}")
    return Usage(
        input_tokens=result.input_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=result.output_tokens,
    )


def _of_anthropic(result: _AnthropicResult) -> Usage:
    return Usage(
        input_tokens=result.uncached_input_tokens,
        cached_input_tokens=result.cache_read_input_tokens,
        cache_write_tokens=result.cache_creation.ephemeral_5m_input_tokens,
        cache_write_1h_tokens=result.cache_creation.ephemeral_1h_input_tokens,
        output_tokens=result.output_tokens,
        web_searches=0 if result.server_tool_use is None else result.server_tool_use.web_search_requests,
    )


def _empty(model: str, start_ms: int, end_ms: int, requests: int | None = None) -> UsageBucket:
    return UsageBucket(
        model=model, start_ms=start_ms, end_ms=end_ms, requests=requests, usage=Usage(), splits_reasoning=False
    )


def _with_idle_models(buckets: list[UsageBucket]) -> list[UsageBucket]:
    """Add the models that were not used in a span; buckets without a model stand for spans without any."""
    # A model that is named nowhere gets none: the export may have been made for other models alone.
    counted = {bucket.model: bucket.requests is not None for bucket in buckets if bucket.model}
    spans: dict[tuple[int, int], set[str]] = {(bucket.start_ms, bucket.end_ms): set() for bucket in buckets}
    for bucket in buckets:
        spans[bucket.start_ms, bucket.end_ms].add(bucket.model)
    idle = [
        _empty(model, *span, requests=0 if is_counted else None)
        for span, used in spans.items()
        for model, is_counted in counted.items()
        if model not in used
    ]
    return [*(bucket for bucket in buckets if bucket.model), *idle]
