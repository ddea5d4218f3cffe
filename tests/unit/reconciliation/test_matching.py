"""What explains a difference between a provider's usage and the ledger's, and what does not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.books import reservation
from tollhouse.pricing.model import Price, Rates, cost_nano_usd
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.matching import known_name, match, merged, shared
from tollhouse.reconciliation.model import CLASSES, LedgerUsage, UsageBucket, combined

# A nano-USD for each token of input, five for each of output; ten and fifty for sound and pictures, 100 for a search.
PRICE = Price.of(
    "test",
    Rates(*(1_000_000,) * 4, 5_000_000, 5_000_000, 10_000_000, 10_000_000, 50_000_000, 50_000_000),
    search_nano_usd=100,
)
NOTHING = Usage()
HOUR_MS = 3_600_000


def bucket(usage=NOTHING, *, model="small", start_ms=0, end_ms=HOUR_MS, requests=None, splits_reasoning=True, **splits):
    return UsageBucket(
        model=model,
        start_ms=start_ms,
        end_ms=end_ms,
        requests=requests,
        usage=usage,
        splits_reasoning=splits_reasoning,
        **splits,
    )


def matched(usage, ledger=NOTHING, ceilings=(), *, requests=None, settled=0, sharing=0, price=PRICE, **splits):
    return match(
        bucket(usage, requests=requests, **splits),
        LedgerUsage(settled, sharing, ledger),
        [reservation(ceiling) for ceiling in ceilings],
        lambda _: price,
    )


def test_equal_usage_agrees():
    usage = Usage(10, 2, 3, 4, 5, 6)

    found = matched(usage, usage, requests=3, settled=3)

    assert (found.outcome, found.resolutions, found.reason) == ("agrees", (), "")


@pytest.mark.parametrize("requests", [None, 3])
def test_where_nothing_is_unclaimed_no_call_of_unknown_outcome_was_billed(requests):
    usage = Usage(input_tokens=10, output_tokens=5)

    found = matched(usage, usage, (900, 800), requests=requests, settled=3)

    assert found.outcome == "resolved"
    assert [(each.usage, each.cost_nano_usd, each.usage_source) for each in found.resolutions] == [
        (NOTHING, 0, "none"),
        (NOTHING, 0, "none"),
    ]
    assert [each.price_version for each in found.resolutions] == ["test 1", "test 1"]


def test_a_single_call_gets_all_that_is_unclaimed_at_its_price():
    settled = Usage(input_tokens=100, output_tokens=20)

    found = matched(Usage(130, 7, 0, 0, 29, 2), settled, (900,), requests=2, settled=1)

    (resolution,) = found.resolutions
    assert resolution.usage == Usage(30, 7, 0, 0, 9, 2)
    assert resolution.cost_nano_usd == 30 + 7 + 5 * 11
    assert (resolution.usage_source, resolution.price_version) == ("reported", PRICE.version)
    assert found.unclaimed_requests == 1


def test_several_calls_share_what_is_unclaimed_by_their_ceilings():
    found = matched(Usage(input_tokens=10, output_tokens=3), NOTHING, (100, 300), requests=1)

    assert [each.usage for each in found.resolutions] == [Usage(3, 0, 0, 0, 1), Usage(7, 0, 0, 0, 2)]
    assert {each.usage_source for each in found.resolutions} == {"estimated"}


def test_of_calls_that_share_few_tokens_those_without_any_were_not_billed():
    found = matched(Usage(output_tokens=1), NOTHING, (100, 300))

    assert [(each.usage_source, each.cost_nano_usd) for each in found.resolutions] == [("none", 0), ("estimated", 5)]


def test_where_a_provider_counts_reasoning_as_output_the_ledger_is_compared_so():
    found = matched(
        Usage(output_tokens=30), Usage(output_tokens=10, reasoning_tokens=15), (900,), splits_reasoning=False
    )

    assert found.ledger.usage == Usage(output_tokens=25)
    assert [each.usage for each in found.resolutions] == [Usage(output_tokens=5)]


MEDIA = Usage(
    1,
    output_tokens=2,
    reasoning_tokens=3,
    audio_input_tokens=10,
    image_input_tokens=20,
    audio_output_tokens=30,
    image_output_tokens=40,
    web_searches=5,
)


@pytest.mark.parametrize(
    ("splits", "counted"),
    [
        ({}, Usage(31, output_tokens=72, reasoning_tokens=3)),
        ({"splits_reasoning": False}, Usage(31, output_tokens=75)),
        ({"splits_media": True, "counts_searches": True}, MEDIA),
        ({"counts_searches": True}, Usage(31, output_tokens=72, reasoning_tokens=3, web_searches=5)),
        (
            {"splits_media": True, "splits_reasoning": False, "counts_searches": True},
            msgspec.structs.replace(MEDIA, output_tokens=5, reasoning_tokens=0),
        ),
    ],
)
def test_the_ledger_is_compared_as_the_provider_counts(splits, counted):
    found = matched(counted, MEDIA, settled=1, requests=1, **splits)

    assert (found.outcome, found.ledger.usage) == ("agrees", counted)
    assert found.ledger.usage.total_tokens == MEDIA.total_tokens


def test_unclaimed_sound_and_searches_are_priced_as_such_where_the_provider_tells_them():
    used = Usage(4, audio_input_tokens=10, web_searches=2)

    (resolution,) = matched(used, NOTHING, (900,), splits_media=True, counts_searches=True).resolutions
    assert (resolution.usage, resolution.cost_nano_usd) == (used, 4 + 10 * 10 + 2 * 100)
    (resolution,) = matched(Usage(14), NOTHING, (900,)).resolutions
    assert (resolution.usage, resolution.cost_nano_usd) == (Usage(14), 14)


def test_more_searches_than_the_provider_counted_are_told():
    found = matched(Usage(4, web_searches=1), Usage(4, web_searches=2), counts_searches=True)

    assert found.reason == "the ledger has more than the provider counted: web_searches"


def test_rows_of_one_span_tell_apart_what_both_of_them_do():
    def searched(usage):
        return bucket(usage, splits_media=True, counts_searches=True)

    (both,) = merged([searched(MEDIA), searched(MEDIA)])
    assert both.usage == combined(MEDIA, MEDIA)
    (folded,) = merged([searched(MEDIA), bucket(Usage(5))])
    assert (folded.splits_media, folded.counts_searches) == (False, False)
    assert folded.usage == Usage(31 + 5, output_tokens=72, reasoning_tokens=3)


@pytest.mark.parametrize(
    ("usage", "ledger", "ceilings", "requests", "settled", "reason"),
    [
        (Usage(9, output_tokens=9), Usage(10, output_tokens=5), (900,), None, 1, "than the provider counted: input_"),
        (Usage(), Usage(), (900,), 1, 2, "has more than the provider counted: requests"),
        (Usage(9), Usage(), (), None, 0, "no call of unknown outcome is left"),
        (Usage(9), Usage(), (900,), 2, 0, "counted 2 more calls than the ledger, which has 1 of unknown"),
        (Usage(9), Usage(), (900,), 3, 3, "more tokens than the ledger has, for as many calls"),
        (Usage(901), Usage(), (900,), 1, 0, "more than the calls of unknown outcome can have cost"),
        (Usage(1201), Usage(), (600, 600), 2, 0, "more than the calls of unknown outcome can have cost"),
    ],
)  # fmt: skip
def test_what_the_unknown_cannot_explain_is_told_and_changes_nothing(
    usage, ledger, ceilings, requests, settled, reason
):
    found = matched(usage, ledger, ceilings, requests=requests, settled=settled)

    assert (found.outcome, found.resolutions) == ("differs", ())
    assert reason in found.reason


def test_usage_at_the_ceiling_exactly_is_within_it():
    assert matched(Usage(900), NOTHING, (900,)).outcome == "resolved"


def test_a_token_left_over_by_rounding_goes_where_there_is_room_for_it():
    # 2.5 and 5.5 tokens by proportion; a third of the first would cost 15.
    found = matched(Usage(output_tokens=8), NOTHING, (14, 30))

    assert [each.usage.output_tokens for each in found.resolutions] == [2, 6]


def test_a_model_without_a_price_is_resolved_only_at_no_cost():
    assert matched(NOTHING, NOTHING, (900,), price=None).outcome == "resolved"
    found = matched(Usage(9), NOTHING, (900,), price=None)
    assert (found.outcome, found.resolutions) == ("differs", ())
    assert "model small has no price any more" in found.reason


def test_a_call_that_was_counted_without_tokens_costs_nothing():
    a_cent_a_request = msgspec.structs.replace(PRICE, request_nano_usd=10)

    found = matched(NOTHING, NOTHING, (900,), requests=1, price=a_cent_a_request)

    assert [each.cost_nano_usd for each in found.resolutions] == [0]


@pytest.mark.parametrize(("counted", "unclaimed"), [(2, -1), (3, 0), (4, 0), (5, 0), (6, 1)])
def test_of_calls_that_share_earlier_usage_as_many_were_billed_as_the_provider_counted(counted, unclaimed):
    found = matched(NOTHING, NOTHING, requests=counted, settled=3, sharing=2)

    assert found.unclaimed_requests == unclaimed
    assert found.outcome == ("differs" if unclaimed else "agrees")


def test_a_call_that_gets_no_share_is_not_charged_for_its_request_either():
    ten_a_request = msgspec.structs.replace(PRICE, request_nano_usd=10)

    found = matched(Usage(1), NOTHING, (5, 900), price=ten_a_request)

    assert [each.cost_nano_usd for each in found.resolutions] == [0, 11]


usages = st.builds(Usage, *(st.integers(0, 10**7) for _ in CLASSES))


@given(usages, st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_shares_are_exact_in_sum_and_each_is_within_a_token_of_its_proportion(usage, weights):
    shares = shared(usage, weights, lambda _place, _usage: True)

    total = sum(weights)
    for name in CLASSES:
        amount = getattr(usage, name)
        assert sum(getattr(share, name) for share in shares) == amount
        for share, weight in zip(shares, weights, strict=True):
            assert getattr(share, name) >= 0
            if total:
                assert abs(getattr(share, name) * total - amount * weight) < total


rates = st.builds(Rates, *(st.integers(0, 10**8) for _ in Rates.__struct_fields__))


@given(usages, rates, st.integers(0, 1000), st.lists(st.integers(0, 10**10), min_size=1, max_size=10))
def test_calls_are_resolved_with_all_that_is_unclaimed_and_never_above_their_ceilings(usage, rates, search, ceilings):
    price = Price.of("test", rates, search_nano_usd=search)

    found = matched(usage, NOTHING, ceilings, price=price, splits_media=True, counts_searches=True)

    if found.outcome == "resolved":
        assert len(found.resolutions) == len(ceilings)
        total = NOTHING
        for resolution in found.resolutions:
            assert 0 <= resolution.cost_nano_usd <= resolution.reservation.ceiling_nano_usd
            total = combined(total, resolution.usage)
        assert total == usage
    else:
        # Rounding moves at most a token of each class from one call to another.
        a_token_each = -(-sum(msgspec.structs.astuple(rates)) // 1_000_000) + search
        assert cost_nano_usd(price, usage) > sum(ceilings) - len(ceilings) * (a_token_each + 1)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("gpt-4o-mini-audio", "gpt-4o-mini-audio"),
        ("other-2024-07-18", "other-2024-07-18"),
    ],
)
def test_a_model_goes_by_its_own_name_or_that_without_the_snapshots_date(model, name):
    assert known_name(model, {"gpt-4o-mini", "claude-haiku-4-5", "gpt-4o-2024-08-06", "gpt-4o"}) == name


def test_buckets_of_one_span_and_model_are_one():
    split, whole = Usage(1, 2, 3, 4, 5, 6), Usage(10, output_tokens=10)

    (found,) = merged([bucket(split, requests=1), bucket(whole, requests=2)])
    assert (found.usage, found.requests) == (Usage(11, 2, 3, 4, 15, 6), 3)

    (found,) = merged([bucket(split, requests=1), bucket(whole, splits_reasoning=False)])
    assert (found.usage, found.requests, found.splits_reasoning) == (Usage(11, 2, 3, 4, 21, 0), None, False)


def test_buckets_come_by_time_and_those_of_a_model_may_not_overlap():
    later, other = bucket(start_ms=HOUR_MS, end_ms=2 * HOUR_MS), bucket(model="large", end_ms=2 * HOUR_MS)

    assert merged([later, other, bucket()]) == [bucket(), other, later]
    with pytest.raises(ValueError, match="two spans of model small overlap"):
        merged([bucket(), bucket(start_ms=HOUR_MS - 1, end_ms=2 * HOUR_MS)])
