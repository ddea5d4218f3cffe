"""Reading usage from CSV: DeepSeek's export, OpenAI's, and the columns that docs/operations.md names for all others.

Everything here raises ValueError with the line, the column and what was expected.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from tollhouse.kit.clock import epoch_ms
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import CLASSES, UsageBucket

_MS_PER_S = 1000
_MS_PER_DAY = 86_400_000
_DEEPSEEK = frozenset({"utc_date", "model", "type", "amount"})
_DEEPSEEK_TYPES = {
    "input_cache_miss_tokens": "input_tokens",
    "input_cache_hit_tokens": "cached_input_tokens",
    "output_tokens": "output_tokens",
    "request_count": "requests",
}
_OPENAI_NAMES = {
    "start_time": "start",
    "end_time": "end",
    "num_model_requests": "requests",
    "input_cached_tokens": "cached_input_tokens",
    "input_cache_write_tokens": "cache_write_tokens",
}
_MEDIA = {"audio_input_tokens", "image_input_tokens", "audio_output_tokens", "image_output_tokens"}
_REQUIRED = ("start", "end", "model", "input_tokens", "output_tokens")
_SECONDS = re.compile(r"\d{1,11}", re.ASCII)
_WHOLE = re.compile(r"(\d{1,18})(\.0*)?", re.ASCII)

Row = Mapping[str, str]


def read_csv(content: str) -> list[UsageBucket]:
    """Return a bucket for each row; of DeepSeek's export one for each day and model. Raises ValueError."""
    rows = list(_rows(content))
    columns = set(rows[0][1]) if rows else set()
    if columns >= _DEEPSEEK:
        return _of_deepseek(rows)
    # OpenAI's input includes what was cached, as its own names of the columns tell.
    includes_cached = "start_time" in columns
    return [_of_row(line, _renamed(row), includes_cached=includes_cached) for line, row in rows]


def _rows(content: str) -> Iterator[tuple[int, Row]]:
    """Yield each row that is not empty by the columns' names, with its line."""
    reader = csv.reader(io.StringIO(content), strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        for values in reader:
            if any(value.strip() for value in values):
                if len(values) != len(names):
                    raise ValueError(f"line {reader.line_num}: expected {len(names)} columns, found {len(values)}")
                yield reader.line_num, dict(zip(names, (value.strip() for value in values), strict=True))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: cannot be read as CSV: {error}") from None


def _renamed(row: Row) -> Row:
    return {_OPENAI_NAMES.get(name, name): value for name, value in row.items()}


def _of_row(line: int, row: Row, *, includes_cached: bool) -> UsageBucket:
    for name in _REQUIRED:
        if name not in row:
            raise ValueError(
                f"line 1: there is no column {name}; expected {', '.join(_REQUIRED)} at least, or the export of a "
                "provider that is known"
            )
    if not row["model"]:
        raise ValueError(f"line {line}: model: is empty; expected the provider's name of a model")
    counts = {name: _count(line, name, row.get(name, "")) for name in CLASSES}
    if includes_cached:
        counts["input_tokens"] -= counts["cached_input_tokens"] + counts["cache_write_tokens"]
        if counts["input_tokens"] < 0:
            raise ValueError(f"line {line}: input_tokens: expected at least the cached tokens, which OpenAI's include")
    start_ms, end_ms = _instant(line, "start", row["start"]), _instant(line, "end", row["end"])
    if start_ms >= end_ms:
        raise ValueError(f"line {line}: end: expected a time after start")
    return UsageBucket(
        model=row["model"],
        start_ms=start_ms,
        end_ms=end_ms,
        requests=_count(line, "requests", row["requests"]) if row.get("requests") else None,
        usage=Usage(**counts),
        splits_reasoning="reasoning_tokens" in row,
        splits_media=not _MEDIA.isdisjoint(row),
        counts_searches="web_searches" in row,
    )


def _of_deepseek(rows: list[tuple[int, Row]]) -> list[UsageBucket]:
    """Sum a day's rows of a model over the account's keys; a model that a day leaves out was not used on it."""
    sums: dict[tuple[int, str], dict[str, int]] = {}
    for line, row in rows:
        day_ms = _instant(line, "utc_date", row["utc_date"])
        counts = sums.setdefault((day_ms, row["model"]), {})
        name = _DEEPSEEK_TYPES.get(row["type"])
        if name is not None:
            counts[name] = counts.get(name, 0) + _count(line, "amount", row["amount"])
        elif not row["type"].startswith("total"):
            raise ValueError(f"line {line}: type: expected one of {', '.join(_DEEPSEEK_TYPES)}, found {row['type']!r}")
    days, models = {day_ms for day_ms, _ in sums}, {model for _, model in sums}
    found = []
    for day_ms in sorted(days):
        for model in sorted(models):
            counts = dict(sums.get((day_ms, model), {}))
            requests = counts.pop("requests", 0)
            found.append(
                UsageBucket(
                    model=model,
                    start_ms=day_ms,
                    end_ms=day_ms + _MS_PER_DAY,
                    requests=requests,
                    usage=Usage(**counts),
                    splits_reasoning=False,
                )
            )
    return found


def _count(line: int, name: str, text: str) -> int:
    if not text:
        return 0
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise ValueError(f"line {line}: {name}: expected a whole number from 0, found {text[:40]!r}")
    return int(match[1])


def _instant(line: int, name: str, text: str) -> int:
    """Return a time given as seconds since the Unix epoch, a date (its midnight in UTC), or RFC 3339."""
    try:
        if _SECONDS.fullmatch(text):
            return int(text) * _MS_PER_S
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None and len(text) == len("2026-04-01"):
            moment = moment.replace(tzinfo=UTC)
        return epoch_ms(moment)
    except ValueError:
        raise ValueError(
            f"line {line}: {name}: expected a date, a time with its zone or seconds since 1970, found {text[:40]!r}"
        ) from None
