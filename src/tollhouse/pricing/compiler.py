"""The child process that turns genai-prices' catalogue into integer rates.

``python -m tollhouse.pricing.compiler`` reads a ``CompileTask`` from its standard input and writes a
``Catalogue`` to its standard output. Nothing that serves calls may import this module: it loads all of
genai-prices.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version

import msgspec
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from tollhouse.kit.clock import epoch_ms
from tollhouse.kit.money import NANO_USD_PER_USD
from tollhouse.pricing.catalogue import Catalogue, CatalogueQuery, CompileTask
from tollhouse.pricing.model import Price, Rates, Tier

_VENDOR_OF_KIND = {"anthropic": "anthropic", "openai": "openai", "deepseek": "deepseek", "gemini": "google"}

_Dimensions = frozenset[tuple[str, str]]

_DIMENSIONS: dict[str, _Dimensions] = {
    unit["price_key"]: frozenset(unit["dimensions"].items()) for unit in unit_data.values()
}

_INPUT: _Dimensions = frozenset({("family", "tokens"), ("direction", "input")})
_TEXT_INPUT = _INPUT | {("modality", "text")}
_AUDIO_INPUT = _INPUT | {("modality", "audio")}
_IMAGE_INPUT = _INPUT | {("modality", "image")}
_CACHED_INPUT = _TEXT_INPUT | {("token_type", "cache_read")}
_CACHE_WRITE = _TEXT_INPUT | {("token_type", "cache_write"), ("cache_ttl", "5m")}
_CACHE_WRITE_1H = _TEXT_INPUT | {("token_type", "cache_write"), ("cache_ttl", "1h")}
_OUTPUT: _Dimensions = frozenset({("family", "tokens"), ("direction", "output")})
_REASONING = _OUTPUT | {("modality", "text"), ("token_type", "reasoning")}
_AUDIO_OUTPUT = _OUTPUT | {("modality", "audio")}
_IMAGE_OUTPUT = _OUTPUT | {("modality", "image")}

_Amounts = dict[str, Decimal]
"""USD by price key, for one call's number of input tokens."""


def compile_catalogue(task: CompileTask) -> Catalogue:
    """Return what the catalogue knows of the models that are asked for."""
    snapshot = get_snapshot()
    prices: dict[str, tuple[Price, ...]] = {}
    context_windows: dict[str, int] = {}
    for query in task.queries:
        found = _vendor(snapshot, query).find_model(query.upstream_model, all_providers=snapshot.providers)
        if found is None:
            continue
        if schedule := _schedule(found, task.now_ms):
            prices[query.model] = schedule
        if found.context_window:
            context_windows[query.model] = found.context_window
    return Catalogue(prices, context_windows)


def _vendor(snapshot: DataSnapshot, query: CatalogueQuery) -> Provider:
    """Return who bills the call: the vendor known by the base URL, else the one that the kind names."""
    try:
        return snapshot.find_provider(None, None, query.base_url.lower())
    except LookupError:
        return snapshot.find_provider(None, _VENDOR_OF_KIND[query.kind], None)


def _schedule(model: ModelInfo, now_ms: int) -> tuple[Price, ...]:
    """Return today's price and that of each later day on which it is known to change; () for no price."""
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    changes = sorted(day for day in _start_dates(model) if day > today)
    schedule: list[Price] = []
    for day in [today, *changes]:
        effective_from_ms = 0 if day == today else epoch_ms(datetime.combine(day, time(), UTC))
        price = _dearest_price(_prices_during(model, day), effective_from_ms)
        if price is None:
            break
        if not schedule or schedule[-1].version != price.version:
            schedule.append(price)
    return tuple(schedule)


def _start_dates(model: ModelInfo) -> set[date]:
    constraints = _constraints(model)
    return {constraint.start_date for constraint in constraints if isinstance(constraint, StartDateConstraint)}


def _constraints(model: ModelInfo) -> list[StartDateConstraint | TimeOfDateConstraint | None]:
    return [] if isinstance(model.prices, ModelPrice) else [price.constraint for price in model.prices]


def _prices_during(model: ModelInfo, day: date) -> list[ModelPrice]:
    """Return the standard prices that are in force at some time of a day (UTC): several with peak hours."""
    times = {time(tzinfo=UTC)}
    for constraint in _constraints(model):
        if isinstance(constraint, TimeOfDateConstraint):
            times |= {_utc(constraint.start_time), _utc(constraint.end_time)}
    return [model.get_prices(datetime.combine(day, moment)) for moment in sorted(times)]


def _utc(moment: time) -> time:
    """Return a time of day in UTC, which genai-prices takes one without a zone to be."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return datetime.combine(date(1970, 1, 2), moment).astimezone(UTC).timetz()


def _dearest_price(candidates: list[ModelPrice], effective_from_ms: int) -> Price | None:
    """Return a price of the dearest rate of each class; None if one of the candidates is no price."""
    if not all(vars(candidate).get("input_mtok") is not None for candidate in candidates):
        return None
    thresholds = sorted({start for candidate in candidates for start in _thresholds(candidate)})
    return Price.of(
        f"genai-prices {version('genai-prices')}",
        _dearest_rates(candidates, 0),
        tuple(Tier(above_input_tokens=start, rates=_dearest_rates(candidates, start + 1)) for start in thresholds),
        request_nano_usd=max(
            _nano_usd(_amounts(candidate, 0).get("requests_kcount", Decimal(0)) / 1000) for candidate in candidates
        ),
        search_nano_usd=_dearest_search(candidates),
        effective_from_ms=effective_from_ms,
    )


def _dearest_search(candidates: list[ModelPrice]) -> int | None:
    """Return what one web search costs at most; None if the catalogue does not say."""
    amounts = [_amounts(candidate, 0).get("web_searches_kcount") for candidate in candidates]
    return max((_nano_usd(amount / 1000) for amount in amounts if amount is not None), default=None)


def _thresholds(price: ModelPrice) -> Iterable[int]:
    return (tier.start for value in vars(price).values() if isinstance(value, TieredPrices) for tier in value.tiers)


def _dearest_rates(candidates: list[ModelPrice], input_tokens: int) -> Rates:
    amounts = [_amounts(candidate, input_tokens) for candidate in candidates]

    def dearest(rate: Callable[[_Amounts], Decimal]) -> int:
        return max(_nano_usd(rate(candidate)) for candidate in amounts)

    return Rates(
        input_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _TEXT_INPUT)),
        cached_input_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _CACHED_INPUT)),
        cache_write_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _CACHE_WRITE)),
        cache_write_1h_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _CACHE_WRITE_1H)),
        output_nano_usd_per_mtok=dearest(_output),
        reasoning_nano_usd_per_mtok=dearest(_reasoning),
        audio_input_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _AUDIO_INPUT)),
        image_input_nano_usd_per_mtok=dearest(lambda a: _most_specific(a, _IMAGE_INPUT)),
        audio_output_nano_usd_per_mtok=dearest(lambda a: _media_output(a, _AUDIO_OUTPUT)),
        image_output_nano_usd_per_mtok=dearest(lambda a: _media_output(a, _IMAGE_OUTPUT)),
    )


def _amounts(price: ModelPrice, input_tokens: int) -> _Amounts:
    """Return a price's amounts for a call of so many input tokens.

    As genai-prices has it: of the tiers whose start the call is above, the last applies, to all its tokens.
    """
    amounts = {}
    for key, value in vars(price).items():
        if isinstance(value, TieredPrices):
            reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
            amounts[key] = reached[-1] if reached else value.base
        elif isinstance(value, Decimal):
            amounts[key] = value
    return amounts


def _most_specific(amounts: _Amounts, token: _Dimensions) -> Decimal:
    """Return the amount of the most specific price that covers a kind of token.

    This is genai-prices' own rule, and the reason why a missing price of cached input is that of input.
    """
    covering = [(len(_DIMENSIONS[key]), amount) for key, amount in amounts.items() if _DIMENSIONS[key] <= token]
    return max(covering)[1]


def _output(amounts: _Amounts) -> Decimal:
    """Return the dearest output of any modality but sound.

    Each API that makes sound counts it apart, but pictures, which some models make unasked at ten times the price of
    text, are not always told from it. Models priced by their input alone (embeddings, old completion models) have
    their output priced like it.
    """
    outputs = {
        key: amount
        for key, amount in amounts.items()
        if _DIMENSIONS[key] >= _OUTPUT and ("token_type", "reasoning") not in _DIMENSIONS[key]
    }
    silent = [amount for key, amount in outputs.items() if ("modality", "audio") not in _DIMENSIONS[key]]
    return max(silent or outputs.values(), default=amounts["input_mtok"])


def _media_output(amounts: _Amounts, token: _Dimensions) -> Decimal:
    """Return the amount of sound or of pictures that a model makes: that of output where it has none of its own."""
    own = [amount for key, amount in amounts.items() if _DIMENSIONS[key] == token]
    return own[0] if own else _output(amounts)


def _reasoning(amounts: _Amounts) -> Decimal:
    return _most_specific(amounts, _REASONING) if "output_mtok" in amounts else _output(amounts)


def _nano_usd(usd: Decimal) -> int:
    """Return an amount rounded up: some published rates are fractions of a nano-USD."""
    return int((usd * NANO_USD_PER_USD).to_integral_value(ROUND_CEILING))


def main() -> None:
    """Read a task, write what the catalogue knows."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=CompileTask)
    sys.stdout.buffer.write(msgspec.json.encode(compile_catalogue(task)))


if __name__ == "__main__":
    main()
