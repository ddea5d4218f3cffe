"""The price of each configured model."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from tollhouse.errors import ModelUnpriced, StartError
from tollhouse.kit.clock import Clock
from tollhouse.kit.money import nano_usd
from tollhouse.pricing.model import Price, Rates


class ConfiguredPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price as an operator writes it: USD per million tokens, at most nine decimals. 0 is a price.

    Attributes:
        search: USD for 1,000 uses of the provider's search tool, at most six decimals. Left out: it has no price, and
            calls that may search are refused, since a search is not free on any vendor's list.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    """Left out: as ``input``."""
    cache_write: Decimal | None = None
    """Left out: as ``input``."""
    cache_write_1h: Decimal | None = None
    """Left out: as ``cache_write``."""
    reasoning: Decimal | None = None
    """Left out: as ``output``."""
    audio_input: Decimal | None = None
    """Left out: as ``input``; so are pictures."""
    image_input: Decimal | None = None
    audio_output: Decimal | None = None
    """Left out: as ``output``; so are pictures."""
    image_output: Decimal | None = None
    search: Decimal | None = None


class PriceBook:
    """Configured prices first, then the catalogue's; a model with neither has no price."""

    def __init__(
        self,
        configured: Mapping[str, ConfiguredPrice],
        catalogue: Mapping[str, Sequence[Price]],
        clock: Clock,
    ) -> None:
        """Bind names to prices.

        Args:
            configured: the operator's prices, by configured model name.
            catalogue: what ``compile_catalogue`` returned: by configured model name, its present price and
                those already known to follow.
            clock: tells which of a model's prices is in force.

        Raises:
            StartError: a configured price is negative, not a number, or finer than 0.000000001 USD.
        """
        self._clock = clock
        self._catalogue = catalogue
        self._schedules: dict[str, Sequence[Price]] = {}
        self.follow(configured)

    def follow(self, configured: Mapping[str, ConfiguredPrice]) -> None:
        """Price calls from now on by other configured prices; raises StartError for a bad one, and keeps the old."""
        schedules: dict[str, Sequence[Price]] = {model: prices for model, prices in self._catalogue.items() if prices}
        for model, price in configured.items():
            schedules[model] = (_price(model, price),)
        self._schedules = schedules

    def get(self, model: str) -> Price | None:
        """Return the price in force for a configured model, or None for a model without one."""
        schedule = self._schedules.get(model)
        if schedule is None:
            return None
        price = schedule[0]
        if len(schedule) > 1:
            now_ms = self._clock.now_ms()
            for later in schedule[1:]:
                if later.effective_from_ms > now_ms:
                    break
                price = later
        return price

    def price_for(self, model: str) -> Price:
        """Return the price in force for a configured model.

        A call takes its price once: its ceiling bounds its cost only at the same price.

        Raises:
            ModelUnpriced: neither the configuration nor the catalogue prices the model.
        """
        price = self.get(model)
        if price is None:
            raise ModelUnpriced(
                f'The model "{model}" has no price, and a call that cannot be priced is refused. '
                f'Give it one: [models."{model}"] price = {{ input = 0.80, output = 4.00 }} '
                "(USD per million tokens)"
            )
        return price


def _price(model: str, configured: ConfiguredPrice) -> Price:
    """Return a configured price in integers; raises StartError."""
    rates = {
        name: _nano_usd_per_mtok(model, name, amount)
        for name, amount in msgspec.structs.asdict(configured).items()
        if amount is not None and name != "search"
    }
    cache_write = rates.get("cache_write", rates["input"])
    return Price.of(
        "config",
        Rates(
            input_nano_usd_per_mtok=rates["input"],
            cached_input_nano_usd_per_mtok=rates.get("cached_input", rates["input"]),
            cache_write_nano_usd_per_mtok=cache_write,
            cache_write_1h_nano_usd_per_mtok=rates.get("cache_write_1h", cache_write),
            output_nano_usd_per_mtok=rates["output"],
            reasoning_nano_usd_per_mtok=rates.get("reasoning", rates["output"]),
            audio_input_nano_usd_per_mtok=rates.get("audio_input", rates["input"]),
            image_input_nano_usd_per_mtok=rates.get("image_input", rates["input"]),
            audio_output_nano_usd_per_mtok=rates.get("audio_output", rates["output"]),
            image_output_nano_usd_per_mtok=rates.get("image_output", rates["output"]),
        ),
        search_nano_usd=None if configured.search is None else _search_nano_usd(model, configured.search),
    )


def _nano_usd_per_mtok(model: str, name: str, usd_per_mtok: Decimal) -> int:
    try:
        rate = nano_usd(usd_per_mtok)
    except ValueError as error:
        raise _misconfigured(model, name, str(error), _RATE) from error
    if rate < 0:
        raise _misconfigured(model, name, f"{usd_per_mtok} USD is negative", _RATE)
    return rate


def _search_nano_usd(model: str, usd_for_1000: Decimal) -> int:
    try:
        for_1000 = nano_usd(usd_for_1000)
    except ValueError as error:
        raise _misconfigured(model, "search", str(error), _SEARCH) from error
    if for_1000 < 0 or for_1000 % 1000:
        raise _misconfigured(model, "search", f"{usd_for_1000} USD is negative, or too fine for one search", _SEARCH)
    return for_1000 // 1000


_RATE = "USD per million tokens, a number from 0 up with at most nine decimals"
_SEARCH = "USD for 1,000 searches, a number from 0 up with at most six decimals"


def _misconfigured(model: str, name: str, reason: str, expected: str) -> StartError:
    return StartError(f'[models."{model}"] price.{name}: {reason}; expected {expected}')
