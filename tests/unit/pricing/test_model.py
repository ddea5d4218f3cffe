from decimal import Decimal

import msgspec
import pytest

from tollhouse.errors import ModelUnpriced
from tollhouse.kit.clock import SystemClock
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.pricing.model import Price, Rates, Tier, ceiling_nano_usd, cost_nano_usd
from tollhouse.providers.usage import Usage


def rates(
    input_rate: int,
    cached: int | None = None,
    write: int | None = None,
    write_1h: int | None = None,
    output: int | None = None,
    reasoning: int | None = None,
    audio_input: int | None = None,
    image_input: int | None = None,
    audio_output: int | None = None,
    image_output: int | None = None,
) -> Rates:
    """Rates whose classes all differ unless told otherwise, so that a mix-up of two shows."""
    return Rates(
        input_nano_usd_per_mtok=input_rate,
        cached_input_nano_usd_per_mtok=input_rate + 1 if cached is None else cached,
        cache_write_nano_usd_per_mtok=input_rate + 2 if write is None else write,
        cache_write_1h_nano_usd_per_mtok=input_rate + 3 if write_1h is None else write_1h,
        output_nano_usd_per_mtok=input_rate + 4 if output is None else output,
        reasoning_nano_usd_per_mtok=input_rate + 5 if reasoning is None else reasoning,
        audio_input_nano_usd_per_mtok=input_rate + 6 if audio_input is None else audio_input,
        image_input_nano_usd_per_mtok=input_rate + 7 if image_input is None else image_input,
        audio_output_nano_usd_per_mtok=input_rate + 8 if audio_output is None else audio_output,
        image_output_nano_usd_per_mtok=input_rate + 9 if image_output is None else image_output,
    )


def test_the_contracts_example_costs_what_the_contract_says():
    book = PriceBook({"m": ConfiguredPrice(input=Decimal("0.80"), output=Decimal("4.00"))}, {}, SystemClock())
    usage = Usage(input_tokens=312, output_tokens=87)
    assert cost_nano_usd(book.price_for("m"), usage) == 597_600


@pytest.mark.parametrize(
    ("usage", "tokens_times_rates"),
    [
        (Usage(input_tokens=1_000_000), 10),
        (Usage(cached_input_tokens=1_000_000), 11),
        (Usage(cache_write_tokens=1_000_000), 12),
        (Usage(cache_write_1h_tokens=1_000_000), 13),
        (Usage(output_tokens=1_000_000), 14),
        (Usage(reasoning_tokens=1_000_000), 15),
        (Usage(audio_input_tokens=1_000_000), 16),
        (Usage(image_input_tokens=1_000_000), 17),
        (Usage(audio_output_tokens=1_000_000), 18),
        (Usage(image_output_tokens=1_000_000), 19),
    ],
)
def test_each_class_is_priced_by_its_own_rate_and_once(usage, tokens_times_rates):
    assert cost_nano_usd(Price.of("test", rates(10)), usage) == tokens_times_rates


def test_the_sum_is_rounded_up_once_and_not_class_by_class():
    price = Price.of("test", rates(*[100_000] * 10))
    each_a_tenth = Usage(*[1] * 10)
    assert cost_nano_usd(price, each_a_tenth) == 1
    assert cost_nano_usd(price, Usage(input_tokens=10)) == 1
    assert cost_nano_usd(price, Usage(input_tokens=11)) == 2


def test_no_tokens_cost_nothing_but_the_requests_own_price():
    assert cost_nano_usd(Price.of("test", rates(10)), Usage()) == 0
    per_request = Price.of("test", rates(10), request_nano_usd=12_000_000)
    assert cost_nano_usd(per_request, Usage()) == 12_000_000
    assert ceiling_nano_usd(per_request, max_input_tokens=0, max_output_tokens=0) == 12_000_000


def test_a_search_is_paid_for_each_and_is_in_no_sum_of_tokens():
    price = Price.of("test", rates(10), search_nano_usd=10_000_000)
    assert cost_nano_usd(price, Usage(input_tokens=1_000_000, web_searches=3)) == 10 + 30_000_000
    assert Usage(web_searches=3).total_tokens == 0
    ceiling = ceiling_nano_usd(price, max_input_tokens=1_000_000, max_output_tokens=0, max_searches=3)
    assert ceiling == 19 - 2 + 30_000_000


def test_a_call_that_may_search_at_an_unknown_price_is_refused():
    price = Price.of("test", rates(10))
    with pytest.raises(ModelUnpriced, match=r"price\.search = 10\.00 \(USD for 1,000 searches\)"):
        ceiling_nano_usd(price, max_input_tokens=1, max_output_tokens=1, max_searches=1)
    free = Price.of("test", rates(10), search_nano_usd=0)
    assert ceiling_nano_usd(free, max_input_tokens=0, max_output_tokens=0, max_searches=9) == 0


def test_a_search_that_nobody_has_priced_is_not_free():
    assert cost_nano_usd(Price.of("test", rates(10)), Usage(web_searches=2)) == 70_000_000


TIERED = Price.of(
    "test",
    rates(1_000_000),
    (Tier(above_input_tokens=100, rates=rates(2_000_000)), Tier(above_input_tokens=200, rates=rates(3_000_000))),
)


@pytest.mark.parametrize(
    ("usage", "rate"),
    [
        (Usage(input_tokens=100), 1),
        (Usage(input_tokens=101), 2),
        (Usage(input_tokens=200), 2),
        (Usage(input_tokens=201), 3),
    ],
)
def test_a_tier_applies_above_its_threshold_and_then_to_all_tokens(usage, rate):
    assert cost_nano_usd(TIERED, usage) == usage.input_tokens * rate


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=50, cached_input_tokens=51, output_tokens=7),
        Usage(input_tokens=50, cache_write_tokens=51, output_tokens=7),
        Usage(input_tokens=50, cache_write_1h_tokens=51, reasoning_tokens=7),
        Usage(input_tokens=50, audio_input_tokens=51, audio_output_tokens=7),
        Usage(input_tokens=50, image_input_tokens=51, image_output_tokens=7),
    ],
)
def test_input_of_every_class_counts_towards_the_threshold(usage):
    assert cost_nano_usd(TIERED, usage) == 108 * 2 + 1


def test_output_does_not_count_towards_the_threshold():
    assert cost_nano_usd(TIERED, Usage(input_tokens=100, output_tokens=1_000)) == 1_100 + 1


def test_the_ceiling_takes_the_dearest_class_of_input_and_of_output():
    price = Price.of("test", rates(1_000_000, 100_000, 1_250_000, 2_000_000, 5_000_000, 6_000_000))
    assert ceiling_nano_usd(price, max_input_tokens=10, max_output_tokens=3) == 20 + 18
    for output in ({"audio_output": 7_000_000}, {"image_output": 7_000_000}):
        price = Price.of("test", rates(1_000_000, 100_000, 1_250_000, 2_000_000, 5_000_000, 6_000_000, **output))
        assert ceiling_nano_usd(price, max_input_tokens=10, max_output_tokens=3) == 20 + 21


@pytest.mark.parametrize(
    ("has_audio", "has_images", "ceiling"),
    [(False, False, 20), (True, False, 30), (False, True, 40), (True, True, 40)],
)
def test_the_ceiling_counts_sound_and_pictures_only_where_there_may_be_some(has_audio, has_images, ceiling):
    dear = rates(1_000_000, 100_000, 1_250_000, 2_000_000, 0, 0, 3_000_000, 4_000_000, 0, 0)
    limits = {"max_input_tokens": 10, "max_output_tokens": 3, "has_audio": has_audio, "has_images": has_images}
    assert ceiling_nano_usd(Price.of("test", dear), **limits) == ceiling
    tiered = Price.of("test", rates(*[0] * 10), (Tier(above_input_tokens=9, rates=dear),))
    assert ceiling_nano_usd(tiered, **limits) == ceiling


def test_unless_told_otherwise_the_ceiling_holds_for_sound_and_pictures():
    price = Price.of("test", rates(0, 0, 0, 0, 0, 0, 3_000_000, 4_000_000, 0, 0))
    assert ceiling_nano_usd(price, max_input_tokens=10, max_output_tokens=0) == 40


def test_the_ceiling_counts_only_tiers_that_the_input_can_reach():
    def ceiling(max_input_tokens: int) -> int:
        return ceiling_nano_usd(TIERED, max_input_tokens=max_input_tokens, max_output_tokens=0)

    assert ceiling(100) == 100 + 1
    assert ceiling(101) == 202 + 1
    assert ceiling(201) == 603 + 1


def test_a_tier_may_be_cheaper_and_the_ceiling_holds_still():
    price = Price.of("test", rates(3_000_000), (Tier(above_input_tokens=100, rates=rates(1_000_000)),))
    assert ceiling_nano_usd(price, max_input_tokens=101, max_output_tokens=0) >= cost_nano_usd(
        price, Usage(input_tokens=100)
    )


def test_versions_are_equal_exactly_when_rates_are():
    price = Price.of("config", rates(10))
    assert Price.of("config", rates(10), effective_from_ms=5).version == price.version
    others = [
        Price.of("genai-prices 0.2.3", rates(10)),
        Price.of("config", rates(11)),
        Price.of("config", rates(10, write_1h=99)),
        Price.of("config", rates(10), (Tier(above_input_tokens=9, rates=rates(10)),)),
        Price.of("config", rates(10), request_nano_usd=1),
        Price.of("config", rates(10), search_nano_usd=1),
        Price.of("config", rates(10), search_nano_usd=0),
        Price.of("config", rates(10, audio_input=99)),
        Price.of("config", rates(10, image_input=99)),
        Price.of("config", rates(10, audio_output=99)),
        Price.of("config", rates(10, image_output=99)),
        Price.of("config", rates(10, audio_input=10)),
        Price.of("config", rates(10), (Tier(above_input_tokens=9, rates=rates(10, image_output=99)),)),
    ]
    assert len({price.version, *(other.version for other in others)}) == 1 + len(others)


def test_a_price_without_rates_of_sound_and_pictures_has_the_version_it_had_before_there_were_any():
    def plain(*text: int) -> Rates:
        return rates(*[*text, text[0], text[0], text[4], text[4]])

    tiers = (Tier(above_input_tokens=10, rates=plain(7, 7, 7, 7, 8, 8)),)
    assert Price.of("test", plain(1, 2, 3, 4, 5, 6), tiers, request_nano_usd=3).version == "test dfc070b22304"
    book = PriceBook({"m": ConfiguredPrice(input=Decimal("0.80"), output=Decimal("4.00"))}, {}, SystemClock())
    assert book.price_for("m").version == "config 6c19c3a3c164"


def test_a_version_fits_its_column_whatever_the_source_is_called():
    assert len(Price.of("genai-prices 2026.11.23.post1.dev99+g1234567", rates(10)).version) == 40


def test_a_price_survives_json_and_still_knows_its_highest_rates():
    assert ceiling_nano_usd(TIERED, max_input_tokens=500, max_output_tokens=5) > 0
    again = msgspec.json.decode(msgspec.json.encode(TIERED), type=Price)
    assert again == TIERED
    assert ceiling_nano_usd(again, max_input_tokens=500, max_output_tokens=5) == ceiling_nano_usd(
        TIERED, max_input_tokens=500, max_output_tokens=5
    )


def test_a_negative_rate_is_refused_by_name():
    with pytest.raises(ValueError, match="cache_write_1h_nano_usd_per_mtok is -1"):
        rates(10, write_1h=-1)


def test_a_negative_price_of_a_request_is_refused():
    with pytest.raises(ValueError, match="request_nano_usd is -1"):
        Price.of("test", rates(10), request_nano_usd=-1)


def test_a_negative_price_of_a_search_is_refused():
    with pytest.raises(ValueError, match="search_nano_usd is -1"):
        Price.of("test", rates(10), search_nano_usd=-1)


@pytest.mark.parametrize("thresholds", [(200, 100), (100, 100), (-1,)])
def test_thresholds_that_do_not_rise_are_refused(thresholds):
    tiers = tuple(Tier(above_input_tokens=threshold, rates=rates(1)) for threshold in thresholds)
    with pytest.raises(ValueError, match="rising thresholds"):
        Price.of("test", rates(1), tiers)


def test_a_version_too_long_for_its_column_is_refused():
    with pytest.raises(ValueError, match="1 to 40 characters"):
        Price(version="v" * 41, base=rates(1))
