from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec
import pytest

from tollhouse.errors import ModelUnpriced, StartError
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.pricing.model import Price, Rates, cost_nano_usd
from tollhouse.providers.usage import Usage


class FixedClock:
    def __init__(self, now_ms: int = 1_795_000_000_000) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


def flat(rate: int, effective_from_ms: int = 0) -> Price:
    rates = Rates(*[rate] * 10)
    return Price.of("catalogue", rates, effective_from_ms=effective_from_ms)


def book(
    configured: Mapping[str, ConfiguredPrice] | None = None,
    catalogue: Mapping[str, Sequence[Price]] | None = None,
    clock: FixedClock | None = None,
) -> PriceBook:
    return PriceBook(configured or {}, catalogue or {}, clock or FixedClock())


def test_a_configured_price_is_exact_to_the_nano_usd():
    price = book({"m": ConfiguredPrice(input=Decimal("0.0375"), output=Decimal("0.000000001"))}).price_for("m")
    assert price.base.input_nano_usd_per_mtok == 37_500_000
    assert price.base.output_nano_usd_per_mtok == 1
    assert price.version.startswith("config ")


def test_rates_left_out_follow_the_ones_given():
    price = book({"m": ConfiguredPrice(input=Decimal(2), output=Decimal(8))}).price_for("m")
    assert price.base == Rates(*[2 * 10**9] * 4, *[8 * 10**9] * 2, *[2 * 10**9] * 2, *[8 * 10**9] * 2)
    written = ConfiguredPrice(input=Decimal(2), output=Decimal(8), cache_write=Decimal(3))
    assert book({"m": written}).price_for("m").base.cache_write_1h_nano_usd_per_mtok == 3 * 10**9


def test_every_rate_given_lands_in_its_own_class():
    written = ConfiguredPrice(
        input=Decimal(1),
        output=Decimal(5),
        cached_input=Decimal("0.1"),
        cache_write=Decimal("1.25"),
        cache_write_1h=Decimal(2),
        reasoning=Decimal(6),
        audio_input=Decimal(7),
        image_input=Decimal(8),
        audio_output=Decimal(9),
        image_output=Decimal("9.5"),
    )
    assert book({"m": written}).price_for("m").base == Rates(
        input_nano_usd_per_mtok=10**9,
        cached_input_nano_usd_per_mtok=10**8,
        cache_write_nano_usd_per_mtok=1_250_000_000,
        cache_write_1h_nano_usd_per_mtok=2 * 10**9,
        output_nano_usd_per_mtok=5 * 10**9,
        reasoning_nano_usd_per_mtok=6 * 10**9,
        audio_input_nano_usd_per_mtok=7 * 10**9,
        image_input_nano_usd_per_mtok=8 * 10**9,
        audio_output_nano_usd_per_mtok=9 * 10**9,
        image_output_nano_usd_per_mtok=9_500_000_000,
    )


def test_a_search_costs_a_thousandth_of_what_is_written_and_nothing_written_is_no_price():
    def search(written: Decimal | None) -> int | None:
        return (
            book({"m": ConfiguredPrice(input=Decimal(1), output=Decimal(5), search=written)})
            .price_for("m")
            .search_nano_usd
        )

    assert search(Decimal("10.00")) == 10_000_000
    assert search(Decimal("0.000001")) == 1
    assert search(Decimal(0)) == 0
    assert search(None) is None


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "Infinity", "0.0000001"])
def test_an_amount_that_is_no_price_of_searches_stops_the_start(amount):
    with pytest.raises(StartError, match=r"price\.search: .*expected USD for 1,000 searches"):
        book({"m": ConfiguredPrice(input=Decimal(1), output=Decimal(1), search=Decimal(amount))})


def test_the_configuration_overrides_the_catalogue():
    both = book({"m": ConfiguredPrice(input=Decimal(1), output=Decimal(1))}, {"m": (flat(7),)})
    assert both.price_for("m").base.input_nano_usd_per_mtok == 10**9


def test_zero_is_a_price():
    free = book({"local": ConfiguredPrice(input=Decimal(0), output=Decimal("0.00"))}, {"local": (flat(7),)})
    assert cost_nano_usd(free.price_for("local"), Usage(input_tokens=10_000, output_tokens=500)) == 0


def test_an_unpriced_model_is_refused_by_name_with_the_remedy():
    with pytest.raises(ModelUnpriced) as refusal:
        book({}, {"other": (flat(1),), "smollm2-135m": ()}).price_for("smollm2-135m")
    assert '"smollm2-135m"' in refusal.value.message
    assert '[models."smollm2-135m"] price = { input = 0.80, output = 4.00 }' in refusal.value.message
    assert (refusal.value.status, refusal.value.code) == (422, "ai_model_unpriced")


def test_get_returns_none_for_a_model_without_price():
    assert book().get("m") is None


def test_a_price_known_to_change_changes_on_its_instant():
    clock = FixedClock(999)
    now, later, last = flat(1), flat(2, effective_from_ms=1_000), flat(3, effective_from_ms=2_000)
    changing = book({}, {"m": (now, later, last)}, clock)
    assert changing.price_for("m") == now
    clock.ms = 1_000
    assert changing.price_for("m") == later
    clock.ms = 1_999
    assert changing.price_for("m") == later
    clock.ms = 5_000
    assert changing.price_for("m") == last


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "Infinity", "0.0000000001"])
def test_an_amount_that_is_no_price_stops_the_start_with_its_place(amount):
    with pytest.raises(StartError, match=r'\[models\."m"\] price\.cache_write: .*expected USD per million tokens'):
        book({"m": ConfiguredPrice(input=Decimal(1), output=Decimal(1), cache_write=Decimal(amount))})


def test_a_misspelt_rate_is_refused():
    with pytest.raises(msgspec.ValidationError, match="cached_imput"):
        msgspec.convert({"input": 1, "output": 2, "cached_imput": 1}, ConfiguredPrice)
