"""Golden bills: compiled rates against genai-prices' own calculation, which is the source of every price here."""

from datetime import UTC, datetime, time, timedelta, timezone
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import Literal

import msgspec
import pytest
from genai_prices import Usage as CatalogueUsage
from genai_prices import calc_price
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as CatalogueTier
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.kit.clock import epoch_ms
from tollhouse.pricing import compiler
from tollhouse.pricing.book import PriceBook
from tollhouse.pricing.catalogue import CatalogueQuery, CompileTask
from tollhouse.pricing.model import UNPRICED_SEARCH_NANO_USD, Price, Rates, ceiling_nano_usd, cost_nano_usd
from tollhouse.providers.usage import Usage

# A Monday, within DeepSeek's hours of full price.
MOMENT = datetime(2026, 11, 23, 9, tzinfo=UTC)

Kind = Literal["anthropic", "openai", "deepseek", "gemini"]

LOOPBACK = "http://127.0.0.1:9999/v1"

GOLDEN: list[tuple[Kind, str, str]] = [
    ("anthropic", "claude-haiku-4-5", "anthropic"),
    ("anthropic", "claude-sonnet-4-5", "anthropic"),
    ("anthropic", "claude-opus-4-6", "anthropic"),
    ("openai", "gpt-4o-mini", "openai"),
    ("openai", "gpt-4o", "openai"),
    ("openai", "gpt-5", "openai"),
    ("openai", "o3-mini", "openai"),
    ("openai", "gpt-5.6-sol", "openai"),
    ("gemini", "gemini-2.5-pro", "google"),
    ("gemini", "gemini-2.5-flash", "google"),
    ("gemini", "gemini-3-pro-preview", "google"),
    ("deepseek", "deepseek-chat", "deepseek"),
    ("deepseek", "deepseek-reasoner", "deepseek"),
    ("openai", "gpt-audio", "openai"),
    ("openai", "gpt-realtime", "openai"),
    ("gemini", "gemini-3-flash-preview", "google"),
]

USAGES = [
    Usage(input_tokens=312, output_tokens=87),
    Usage(input_tokens=1, output_tokens=1),
    Usage(input_tokens=200_000, output_tokens=4_096),
    Usage(input_tokens=200_001, output_tokens=4_096),
    Usage(input_tokens=272_001, output_tokens=1),
    Usage(input_tokens=7, cached_input_tokens=199_994, output_tokens=333),
    Usage(input_tokens=11, cached_input_tokens=13, cache_write_tokens=17, output_tokens=19),
    Usage(input_tokens=11, cache_write_tokens=17, cache_write_1h_tokens=23, output_tokens=19),
    Usage(input_tokens=501, cached_input_tokens=1_024, output_tokens=77, reasoning_tokens=1_234),
    Usage(input_tokens=501, audio_input_tokens=1_024, image_input_tokens=258, output_tokens=77, audio_output_tokens=33),
    Usage(audio_input_tokens=200_001, image_input_tokens=100_000, output_tokens=1),
    Usage(input_tokens=7, cached_input_tokens=100, output_tokens=5, image_output_tokens=1_290),
    Usage(),
]


def query(kind: Kind, model: str, base_url: str = LOOPBACK) -> CatalogueQuery:
    return CatalogueQuery(model=model, upstream_model=model, kind=kind, base_url=base_url)


def compiled(*queries: CatalogueQuery, moment: datetime = MOMENT) -> dict[str, tuple[Price, ...]]:
    return dict(compiler.compile_catalogue(CompileTask(now_ms=epoch_ms(moment), queries=queries)).prices)


def one(kind: Kind, model: str, base_url: str = LOOPBACK) -> Price:
    return compiled(query(kind, model, base_url))[model][0]


_NO_MEDIA = [
    *(f"cache_{modality}_{use}_tokens" for modality in ("audio", "image") for use in ("read", "write", "write_1h")),
    *(f"output_{modality}_reasoning_tokens" for modality in ("audio", "image")),
]


def catalogue_usage(usage: Usage) -> CatalogueUsage:
    """The same tokens as genai-prices counts them: the whole of input and of output, and parts of them."""
    writes = usage.cache_write_tokens + usage.cache_write_1h_tokens
    return CatalogueUsage(
        input_tokens=usage.all_input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=writes,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.total_tokens - usage.all_input_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.audio_input_tokens,
        input_image_tokens=usage.image_input_tokens,
        output_audio_tokens=usage.audio_output_tokens,
        output_image_tokens=usage.image_output_tokens,
        web_searches=usage.web_searches,
        # What was cached or thought is text.
        **dict.fromkeys(_NO_MEDIA, 0),
    )


def round_up(usd: Decimal) -> int:
    return int((usd * 10**9).to_integral_value(ROUND_CEILING))


def catalogue_cost(vendor: str, model: str, usage: Usage, moment: datetime = MOMENT) -> int:
    bill = calc_price(catalogue_usage(usage), model, provider_id=vendor, genai_request_timestamp=moment)
    return round_up(bill.total_price)


PRICES = compiled(*(query(kind, model) for kind, model, _ in GOLDEN))


@pytest.mark.parametrize(("kind", "model", "vendor"), GOLDEN)
def test_a_golden_bill_equals_the_catalogues_own(kind, model, vendor):
    for usage in USAGES:
        assert cost_nano_usd(PRICES[model][0], usage) == catalogue_cost(vendor, model, usage), usage


@given(
    st.sampled_from(GOLDEN),
    st.lists(st.integers(0, 5_000) | st.integers(0, 300_000), min_size=10, max_size=10),
)
def test_any_bill_equals_the_catalogues_own(golden, tokens):
    _, model, vendor = golden
    usage = Usage(*tokens)
    assert cost_nano_usd(PRICES[model][0], usage) == catalogue_cost(vendor, model, usage)


def test_long_prompts_of_gemini_pro_have_rates_of_their_own():
    (tier,) = PRICES["gemini-2.5-pro"][0].tiers
    assert tier.above_input_tokens == 200_000
    assert tier.rates.input_nano_usd_per_mtok == 2_500_000_000
    assert PRICES["gemini-2.5-pro"][0].base.input_nano_usd_per_mtok == 1_250_000_000


def test_an_hours_cache_write_of_claude_has_its_own_rate():
    rates = PRICES["claude-haiku-4-5"][0].base
    assert rates.cache_write_1h_nano_usd_per_mtok == 2 * rates.input_nano_usd_per_mtok


def test_the_version_names_the_package_and_its_release():
    assert PRICES["gpt-4o-mini"][0].version.startswith(f"genai-prices {version('genai-prices')} ")


@pytest.fixture(scope="module")
def schedules():
    """Each model of the catalogue that can be priced, with its provider and its prices."""
    return [
        (provider, model, schedule)
        for provider in providers
        for model in provider.models
        if (schedule := compiler._schedule(model, epoch_ms(MOMENT)))
    ]


def test_no_model_of_the_catalogue_is_ever_billed_below_its_price(schedules):
    """Every model that can be priced at all, at hours of the day and days of the year that follow."""
    usages = [USAGES[2], USAGES[3], USAGES[8], USAGES[11], msgspec.structs.replace(USAGES[9], web_searches=3)]
    moments = [MOMENT + timedelta(days=days, hours=days) for days in (0, 0.5, 8, 40, 400)]
    clock = TravelClock()
    bills = 0
    for provider, model, schedule in schedules:
        book = PriceBook({}, {"m": schedule}, clock)
        for moment in moments if isinstance(model.prices, list) else moments[:1]:
            clock.moment = moment
            for usage in usages:
                bill = model.calc_price(catalogue_usage(usage), provider, genai_request_timestamp=moment)
                assert cost_nano_usd(book.price_for("m"), usage) >= round_up(bill.total_price), model.id
                bills += 1
    assert bills > 5_000


class TravelClock:
    moment = MOMENT

    def now_ms(self) -> int:
        return epoch_ms(self.moment)

    def monotonic_s(self) -> float:
        return self.moment.timestamp()


# Which vendor.


@pytest.mark.parametrize(
    ("kind", "model"),
    [("anthropic", "claude-haiku-4-5"), ("deepseek", "deepseek-chat"), ("gemini", "gemini-2.5-flash")],
)
def test_an_unknown_host_is_priced_as_the_vendor_its_kind_names(kind, model):
    assert one(kind, model, "http://127.0.0.1:9999") == PRICES[model][0]


def test_an_openai_compatible_proxy_is_priced_as_openai():
    assert one("openai", "gpt-4o-mini", "https://llm-proxy.internal/v1") == PRICES["gpt-4o-mini"][0]


def test_a_host_the_catalogue_knows_is_priced_as_its_own_vendor():
    groq = one("openai", "openai/gpt-oss-20b", "https://api.groq.com/openai/v1")
    openrouter = one("openai", "openai/gpt-oss-20b", "https://openrouter.ai/api/v1")
    assert groq.version != openrouter.version
    assert one("openai", "deepseek-chat", "https://api.deepseek.com") == PRICES["deepseek-chat"][0]
    gemini = one("openai", "gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai")
    assert gemini == PRICES["gemini-2.5-pro"][0]
    assert one("anthropic", "deepseek-chat", "https://API.deepseek.com/anthropic") == PRICES["deepseek-chat"][0]


def test_a_known_vendors_unknown_model_is_not_priced_as_somebody_elses():
    assert compiled(query("openai", "gpt-4o-mini", "https://api.groq.com/openai/v1")) == {}


@pytest.mark.parametrize("model", ["smollm2-135m", "llama3.2:3b", "qwen3-8b", "my-finetune", "gpt-4o-mini-local"])
def test_a_local_model_that_only_looks_like_openais_is_not_priced(model):
    assert compiled(query("openai", model)) == {}


def test_models_are_returned_by_their_configured_names():
    aliased = CatalogueQuery(model="fast", upstream_model="gpt-4o-mini", kind="openai", base_url=LOOPBACK)
    assert compiled(aliased)["fast"] == PRICES["gpt-4o-mini"]


# What the catalogue cannot price.


@pytest.mark.parametrize(("kind", "model"), [("gemini", "gemma-3"), ("openai", "whisper-1"), ("openai", "tts-1")])
def test_a_model_without_a_price_for_tokens_is_unpriced(kind, model):
    assert compiled(query(kind, model)) == {}


def test_output_of_a_model_priced_by_input_alone_costs_like_its_input():
    price = one("openai", "text-embedding-3-small")
    assert cost_nano_usd(price, Usage(input_tokens=1_000)) == 20_000
    assert cost_nano_usd(price, Usage(output_tokens=1_000)) == 20_000


def test_a_model_that_makes_images_is_priced_by_its_images():
    rates = one("gemini", "gemini-2.5-flash-image").base
    assert rates.output_nano_usd_per_mtok == 30 * 10**9
    assert rates.reasoning_nano_usd_per_mtok == 2_500_000_000


def test_sound_has_rates_of_its_own_and_does_not_make_text_dearer():
    rates = one("openai", "gpt-audio").base
    assert rates.audio_input_nano_usd_per_mtok == 32 * 10**9
    assert rates.audio_output_nano_usd_per_mtok == 64 * 10**9
    assert rates.output_nano_usd_per_mtok == rates.image_output_nano_usd_per_mtok == 10 * 10**9


def test_pictures_that_are_made_have_a_rate_of_their_own():
    assert one("gemini", "gemini-2.5-flash-image").base.image_output_nano_usd_per_mtok == 30 * 10**9
    assert one("openai", "gpt-realtime").base.image_input_nano_usd_per_mtok == 5 * 10**9


@pytest.mark.parametrize(
    ("kind", "model", "search_nano_usd"),
    [
        ("anthropic", "claude-haiku-4-5", 10_000_000),
        ("gemini", "gemini-2.5-flash", 35_000_000),
        ("openai", "gpt-audio", None),
        ("deepseek", "deepseek-chat", None),
    ],
)
def test_a_web_search_has_the_catalogues_price_or_none(kind, model, search_nano_usd):
    price = one(kind, model)
    assert price.search_nano_usd == search_nano_usd
    if search_nano_usd is not None:
        assert cost_nano_usd(price, Usage(web_searches=3)) == 3 * search_nano_usd


def test_no_search_of_the_catalogue_costs_more_than_one_of_unknown_price(schedules):
    searches = [price.search_nano_usd for *_, schedule in schedules for price in schedule]
    found = [search for search in searches if search is not None]
    assert len(found) > 90
    assert max(found) == UNPRICED_SEARCH_NANO_USD


def test_a_price_without_sound_pictures_and_searches_has_the_version_it_had_before_they_were_compiled():
    if version("genai-prices") == "0.2.3":
        assert PRICES["deepseek-chat"][0].version == "genai-prices 0.2.3 efcd3ba8c793"


def test_context_windows_are_compiled_where_the_catalogue_tells_them():
    queries = (
        query("anthropic", "claude-haiku-4-5"),
        query("openai", "gpt-4o-mini"),
        query("openai", "smollm2-135m"),
    )
    found = compiler.compile_catalogue(CompileTask(now_ms=epoch_ms(MOMENT), queries=queries)).context_windows
    assert found["claude-haiku-4-5"] == 200_000
    assert found["gpt-4o-mini"] == 128_000
    assert "smollm2-135m" not in found


def test_a_price_per_request_is_part_of_cost_and_ceiling():
    sonar = one("openai", "sonar", "https://api.perplexity.ai")
    assert cost_nano_usd(sonar, Usage()) == 12_000_000
    assert ceiling_nano_usd(sonar, max_input_tokens=0, max_output_tokens=0) == 12_000_000


# Prices that depend on time.


def test_a_model_with_peak_hours_is_priced_at_its_peak_all_day():
    for hour in (0, 3, 12, 20):
        prices = compiled(query("deepseek", "deepseek-chat"), moment=MOMENT.replace(hour=hour))
        assert prices["deepseek-chat"] == PRICES["deepseek-chat"]
    off_peak = MOMENT.replace(hour=20)
    bill = catalogue_cost("deepseek", "deepseek-chat", USAGES[0], off_peak)
    assert bill < cost_nano_usd(PRICES["deepseek-chat"][0], USAGES[0])


def test_a_price_announced_for_later_is_compiled_along_with_its_day():
    before, after = compiled(query("gemini", "gemini-4-argon"))["gemini-4-argon"]
    assert before.effective_from_ms == 0
    assert after.effective_from_ms == epoch_ms(datetime(2026, 12, 1, tzinfo=UTC))
    for price, moment in ((before, MOMENT), (after, datetime(2026, 12, 1, tzinfo=UTC))):
        assert cost_nano_usd(price, USAGES[8]) == catalogue_cost("google", "gemini-4-argon", USAGES[8], moment)


def test_a_price_of_the_past_is_not_compiled():
    then = compiled(query("openai", "o3"), moment=datetime(2025, 6, 1, tzinfo=UTC))["o3"]
    now = compiled(query("openai", "o3"))["o3"]
    assert len(then) == 2
    assert now[0].version == then[1].version


# The catalogue's own rules, on prices made for the purpose.


def model_of(*prices: ModelPrice | ConditionalPrice) -> ModelInfo:
    conditional = [price if isinstance(price, ConditionalPrice) else ConditionalPrice(prices=price) for price in prices]
    return ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=conditional)


def compiled_model(*prices: ModelPrice | ConditionalPrice) -> Price:
    return compiler._schedule(model_of(*prices), epoch_ms(MOMENT))[0]


def test_a_missing_rate_is_that_of_the_class_it_is_a_part_of():
    price = compiled_model(ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(7)))
    assert price.base == Rates(*[3 * 10**9] * 4, *[7 * 10**9] * 2, *[3 * 10**9] * 2, *[7 * 10**9] * 2)
    price = compiled_model(ModelPrice(input_mtok=Decimal(3), cache_write_mtok=Decimal(4), output_mtok=Decimal(7)))
    assert price.base.cache_write_1h_nano_usd_per_mtok == 4 * 10**9


def test_prices_of_text_and_of_five_minute_writes_are_preferred_to_general_ones():
    price = compiled_model(
        ModelPrice(
            input_mtok=Decimal(3),
            input_text_mtok=Decimal(2),
            input_audio_mtok=Decimal(9),
            cache_write_mtok=Decimal(4),
            cache_write_5m_mtok=Decimal(5),
            output_mtok=Decimal(7),
            output_reasoning_mtok=Decimal(6),
        )
    )
    assert price.base.input_nano_usd_per_mtok == 2 * 10**9
    assert price.base.cache_write_nano_usd_per_mtok == 5 * 10**9
    assert price.base.cache_write_1h_nano_usd_per_mtok == 4 * 10**9
    assert price.base.reasoning_nano_usd_per_mtok == 6 * 10**9


def test_sound_and_pictures_without_a_price_of_their_own_cost_like_the_class_they_are_a_part_of():
    price = compiled_model(
        ModelPrice(
            input_mtok=Decimal(3),
            input_text_mtok=Decimal(2),
            input_audio_mtok=Decimal(9),
            output_mtok=Decimal(7),
            output_audio_mtok=Decimal(8),
        )
    )
    assert price.base.audio_input_nano_usd_per_mtok == 9 * 10**9
    assert price.base.image_input_nano_usd_per_mtok == 3 * 10**9
    assert price.base.audio_output_nano_usd_per_mtok == 8 * 10**9
    assert price.base.image_output_nano_usd_per_mtok == price.base.output_nano_usd_per_mtok == 7 * 10**9


def test_a_model_that_makes_nothing_but_sound_has_all_its_output_priced_so():
    price = compiled_model(ModelPrice(input_mtok=Decimal(3), output_audio_mtok=Decimal(8)))
    assert price.base.output_nano_usd_per_mtok == price.base.audio_output_nano_usd_per_mtok == 8 * 10**9


def test_searches_and_sound_of_peak_hours_are_priced_so_all_day():
    peak = ConditionalPrice(
        TimeOfDateConstraint(time(1), time(2)),
        prices=ModelPrice(
            input_mtok=Decimal(1), output_mtok=Decimal(1), input_audio_mtok=Decimal(5), web_searches_kcount=Decimal(14)
        ),
    )
    price = compiled_model(
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), web_searches_kcount=Decimal(10)), peak
    )
    assert price.base.audio_input_nano_usd_per_mtok == 5 * 10**9
    assert price.search_nano_usd == 14_000_000


def test_units_may_have_thresholds_of_their_own():
    def tiered(base: int, *tiers: tuple[int, int]) -> TieredPrices:
        return TieredPrices(Decimal(base), [CatalogueTier(start, Decimal(price)) for start, price in tiers])

    original = ModelPrice(input_mtok=tiered(1, (100, 2), (300, 4)), output_mtok=tiered(5, (200, 9)))
    price = compiled_model(original)
    assert [tier.above_input_tokens for tier in price.tiers] == [100, 200, 300]
    for tokens in (0, 100, 101, 200, 201, 300, 301):
        usage = Usage(input_tokens=tokens, output_tokens=13)
        total = original.calc_price(catalogue_usage(usage))["total_price"]
        assert cost_nano_usd(price, usage) == round_up(total), tokens


def test_a_fraction_of_a_nano_usd_is_rounded_up():
    price = compiled_model(ModelPrice(input_mtok=Decimal("0.0833333333333"), output_mtok=Decimal(1)))
    assert price.base.input_nano_usd_per_mtok == 83_333_334


def test_peak_hours_given_in_another_zone_or_in_none_are_found():
    zone = timezone(timedelta(hours=-9))
    for start, end in ((time(23), time(1)), (time(23, tzinfo=zone), time(1, tzinfo=zone))):
        peak = ConditionalPrice(
            TimeOfDateConstraint(start, end), prices=ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(2))
        )
        price = compiled_model(ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(3)), peak)
        assert price.base.input_nano_usd_per_mtok == 2 * 10**9
        assert price.base.output_nano_usd_per_mtok == 3 * 10**9


def test_a_tier_of_peak_hours_alone_is_a_tier_all_day():
    tiered = TieredPrices(Decimal(1), [CatalogueTier(100, Decimal(4))])
    peak = ConditionalPrice(
        TimeOfDateConstraint(time(1), time(2)), prices=ModelPrice(input_mtok=tiered, output_mtok=Decimal(1))
    )
    price = compiled_model(ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(3)), peak)
    assert price.base.input_nano_usd_per_mtok == 2 * 10**9
    assert [tier.above_input_tokens for tier in price.tiers] == [100]
    assert price.tiers[0].rates.input_nano_usd_per_mtok == 4 * 10**9


def test_a_model_that_is_unpriced_at_some_hour_is_unpriced():
    free_at_night = ConditionalPrice(TimeOfDateConstraint(time(1), time(2)), prices=ModelPrice())
    model = model_of(ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(3)), free_at_night)
    assert compiler._schedule(model, epoch_ms(MOMENT)) == ()
