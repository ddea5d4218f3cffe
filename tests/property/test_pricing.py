"""The bound that the whole budget rests on, and the bill, against the plainest statement of each."""

from fractions import Fraction

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tollhouse.pricing.model import Price, Rates, Tier, ceiling_nano_usd, cost_nano_usd
from tollhouse.providers.base import Usage

RATE = st.integers(0, 10**12) | st.integers(0, 3)
RATES = st.builds(Rates, RATE, RATE, RATE, RATE, RATE, RATE)
THRESHOLD = st.integers(0, 60)
TOKENS = st.integers(0, 30) | st.integers(0, 10**7)
USAGE = st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    thresholds = sorted(draw(st.sets(THRESHOLD, max_size=4)))
    tiers = tuple(Tier(above_input_tokens=threshold, rates=draw(RATES)) for threshold in thresholds)
    return Price.of("test", draw(RATES), tiers, request_nano_usd=draw(st.integers(0, 10**8)))


def input_tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens


def exact_cost_nano_usd(price: Price, usage: Usage) -> Fraction:
    reached = [tier.rates for tier in price.tiers if input_tokens(usage) > tier.above_input_tokens]
    rates = reached[-1] if reached else price.base
    pairs = zip(msgspec.structs.astuple(usage), msgspec.structs.astuple(rates), strict=True)
    return price.request_nano_usd + Fraction(sum(tokens * rate for tokens, rate in pairs), 10**6)


@given(prices(), USAGE, TOKENS, TOKENS)
@example(
    # A long prompt's tier that is cheaper than the base: the dearest call is not the longest.
    Price.of("test", Rates(9, 9, 9, 9, 9, 9), (Tier(above_input_tokens=10, rates=Rates(0, 0, 0, 0, 0, 0)),)),
    Usage(input_tokens=10, output_tokens=1_000_000),
    1,
    0,
)
def test_no_call_costs_more_than_its_ceiling(price, usage, spare_input, spare_output):
    ceiling = ceiling_nano_usd(
        price,
        max_input_tokens=input_tokens(usage) + spare_input,
        max_output_tokens=usage.output_tokens + usage.reasoning_tokens + spare_output,
    )
    assert cost_nano_usd(price, usage) <= ceiling


@given(prices(), USAGE)
def test_a_cost_is_the_exact_sum_rounded_up_by_less_than_a_nano_usd(price, usage):
    exact = exact_cost_nano_usd(price, usage)
    assert exact <= cost_nano_usd(price, usage) < exact + 1


@given(prices(), TOKENS, TOKENS)
def test_without_tiers_the_ceiling_is_reached_by_some_call(price, max_input_tokens, max_output_tokens):
    flat = Price.of("test", price.base, request_nano_usd=price.request_nano_usd)
    splits_of_input = [
        (max_input_tokens, 0, 0, 0),
        (0, max_input_tokens, 0, 0),
        (0, 0, max_input_tokens, 0),
        (0, 0, 0, max_input_tokens),
    ]
    splits_of_output = [(max_output_tokens, 0), (0, max_output_tokens)]
    dearest = max(cost_nano_usd(flat, Usage(*taken, *made)) for taken in splits_of_input for made in splits_of_output)
    assert dearest == ceiling_nano_usd(flat, max_input_tokens=max_input_tokens, max_output_tokens=max_output_tokens)


@given(prices())
def test_a_price_survives_json(price):
    assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price
