"""The bound that the whole budget rests on, and the bill, against the plainest statement of each."""

from fractions import Fraction

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tollhouse.pricing.model import UNPRICED_SEARCH_NANO_USD, Price, Rates, Tier, ceiling_nano_usd, cost_nano_usd
from tollhouse.providers.usage import Usage

RATE = st.integers(0, 10**12) | st.integers(0, 3)
RATES = st.builds(Rates, *[RATE] * 10)
THRESHOLD = st.integers(0, 60)
TOKENS = st.integers(0, 30) | st.integers(0, 10**7)
SEARCHES = st.integers(0, 20)
USAGE = st.builds(Usage, *[TOKENS] * 10, SEARCHES)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    thresholds = sorted(draw(st.sets(THRESHOLD, max_size=4)))
    tiers = tuple(Tier(above_input_tokens=threshold, rates=draw(RATES)) for threshold in thresholds)
    return Price.of(
        "test",
        draw(RATES),
        tiers,
        request_nano_usd=draw(st.integers(0, 10**8)),
        search_nano_usd=draw(st.none() | st.integers(0, 10**8)),
    )


def classes(usage: Usage, direction: str) -> dict[str, int]:
    """The usage's tokens in or out by class; reasoning is output, and cache writes are input, whatever their names."""
    inputs = {"input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"} | {
        "audio_input_tokens",
        "image_input_tokens",
    }
    every = {name: count for name, count in msgspec.structs.asdict(usage).items() if name != "web_searches"}
    return {name: count for name, count in every.items() if (name in inputs) == (direction == "in")}


def exact_cost_nano_usd(price: Price, usage: Usage) -> Fraction:
    reached = [tier.rates for tier in price.tiers if sum(classes(usage, "in").values()) > tier.above_input_tokens]
    rates = reached[-1] if reached else price.base
    tokens = sum(
        count * getattr(rates, name.replace("_tokens", "_nano_usd_per_mtok"))
        for direction in ("in", "out")
        for name, count in classes(usage, direction).items()
    )
    search = UNPRICED_SEARCH_NANO_USD if price.search_nano_usd is None else price.search_nano_usd
    return price.request_nano_usd + usage.web_searches * search + Fraction(tokens, 10**6)


@given(prices(), USAGE, TOKENS, TOKENS, SEARCHES, st.booleans(), st.booleans())
@example(
    # A long prompt's tier that is cheaper than the base: the dearest call is not the longest.
    Price.of("test", Rates(*[9] * 10), (Tier(above_input_tokens=10, rates=Rates(*[0] * 10)),)),
    Usage(input_tokens=10, output_tokens=1_000_000),
    1,
    0,
    0,
    False,
    False,
)
@example(
    # Sound whose rate is the dearest, in a tier that the sound alone reaches.
    Price.of("test", Rates(*[0] * 10), (Tier(above_input_tokens=10, rates=Rates(*[0, 0, 0, 0, 0, 0, 9, 0, 0, 0])),)),
    Usage(audio_input_tokens=1_000_000),
    0,
    0,
    0,
    True,
    False,
)
def test_no_call_costs_more_than_its_ceiling(
    price, usage, spare_input, spare_output, spare_searches, has_audio, has_images
):
    usage = msgspec.structs.replace(
        usage,
        audio_input_tokens=usage.audio_input_tokens if has_audio else 0,
        image_input_tokens=usage.image_input_tokens if has_images else 0,
        web_searches=0 if price.search_nano_usd is None else usage.web_searches,
    )
    ceiling = ceiling_nano_usd(
        price,
        max_input_tokens=sum(classes(usage, "in").values()) + spare_input,
        max_output_tokens=sum(classes(usage, "out").values()) + spare_output,
        max_searches=0 if price.search_nano_usd is None else usage.web_searches + spare_searches,
        has_audio=has_audio,
        has_images=has_images,
    )
    assert cost_nano_usd(price, usage) <= ceiling


@given(prices(), USAGE)
def test_a_cost_is_the_exact_sum_rounded_up_by_less_than_a_nano_usd(price, usage):
    exact = exact_cost_nano_usd(price, usage)
    assert exact <= cost_nano_usd(price, usage) < exact + 1


@given(prices(), TOKENS, TOKENS, st.booleans(), st.booleans())
def test_without_tiers_the_ceiling_is_reached_by_some_call(
    price, max_input_tokens, max_output_tokens, has_audio, has_images
):
    flat = Price.of("test", price.base, request_nano_usd=price.request_nano_usd)
    left_out = {name for name, is_there in (("audio", has_audio), ("image", has_images)) if not is_there}
    inputs = [name for name in classes(Usage(), "in") if name.partition("_")[0] not in left_out]
    dearest = max(
        cost_nano_usd(flat, Usage(**{taken: max_input_tokens, made: max_output_tokens}))
        for taken in inputs
        for made in classes(Usage(), "out")
    )
    assert dearest == ceiling_nano_usd(
        flat,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        has_audio=has_audio,
        has_images=has_images,
    )


@given(prices())
def test_a_price_survives_json(price):
    assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price
