import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.limits.bucket import CONCURRENT_WAIT_US, UNITS, drained, refusal, wait_us
from tollhouse.limits.model import Limit, LimitKey

OF_42 = LimitKey("42", "tenant", "")


@given(
    per_minute=st.integers(1, 6000),
    size=st.integers(1, 50),
    steps_us=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=100),
)
def test_no_stretch_of_time_sees_more_than_size_and_rate_allow(per_minute, size, steps_us):
    now_us, taken, taken_at_us = 0, 0, []
    for step_us in steps_us:
        now_us += step_us
        taken = drained(taken, per_minute, step_us)
        if not wait_us(taken, 1, size, per_minute):
            taken += UNITS
            taken_at_us.append(now_us)
    for first, start_us in enumerate(taken_at_us):
        for last in range(first, len(taken_at_us)):
            assert (last - first + 1 - size) * UNITS <= (taken_at_us[last] - start_us) * per_minute


@given(taken=st.integers(0, 10**12), more=st.integers(1, 50), size=st.integers(50, 99), per_minute=st.integers(1, 6000))
def test_after_the_wait_there_is_room_and_a_microsecond_earlier_there_is_not(taken, more, size, per_minute):
    wait = wait_us(taken, more, size, per_minute)
    assert not wait_us(drained(taken, per_minute, wait), more, size, per_minute)
    if wait:
        assert wait_us(drained(taken, per_minute, wait - 1), more, size, per_minute)


def test_time_that_runs_backwards_gives_nothing_and_takes_nothing():
    assert drained(5 * UNITS, 60, -1_000_000) == 5 * UNITS


def test_where_there_is_no_limit_any_more_nothing_stays_taken():
    assert drained(5 * UNITS, 0, 0) == 0


@pytest.mark.parametrize(
    ("requests_taken", "tokens_taken", "running", "tokens", "kind", "wait"),
    [
        (0, 0, 0, 1, None, 0),
        (2 * UNITS, 0, 0, 1, "requests", 10_000_000),
        (2 * UNITS, 60 * UNITS, 2, 20, "tokens", 20_000_000),
        (2 * UNITS, 60 * UNITS, 2, 5, "requests", 10_000_000),
        (0, 0, 2, 1, "concurrent", CONCURRENT_WAIT_US),
        (2 * UNITS, 0, 2, 61, "tokens", 0),
    ],
)
def test_the_longest_wait_is_told_and_what_never_fits_before_all(
    requests_taken, tokens_taken, running, tokens, kind, wait
):
    limit = Limit(6, 2, 60, 2)
    refused = refusal(OF_42, limit, tokens, requests_taken, tokens_taken, running)
    assert (None, 0) if refused is None else (refused.kind, refused.wait_us) == (kind, wait)
    assert (refused is None) == (kind is None)
