import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.gate import ratelimit
from tollhouse.gate.ratelimit import RateLimiter


def takes(limiter, tenant_id, now_s):
    """Take a call if there is one; return whether there was."""
    if limiter.wait_s(tenant_id, now_s):
        return False
    limiter.take(tenant_id, now_s)
    return True


def test_a_bucket_holds_its_burst_and_refills_at_its_rate():
    limiter = RateLimiter(requests_per_minute=60, burst=3)
    assert [takes(limiter, "42", 100.0) for _ in range(4)] == [True, True, True, False]
    assert not takes(limiter, "42", 100.999)
    assert [takes(limiter, "42", 101.0) for _ in range(2)] == [True, False]
    assert [takes(limiter, "42", 200.0) for _ in range(4)] == [True, True, True, False]


def test_the_wait_is_until_the_bucket_holds_a_call_again():
    limiter = RateLimiter(requests_per_minute=6, burst=1)
    assert limiter.wait_s("42", 0.0) == 0
    limiter.take("42", 0.0)
    assert limiter.wait_s("42", 0.0) == 10.0
    assert limiter.wait_s("42", 7.5) == 2.5
    assert limiter.wait_s("42", 10.0) == 0


def test_looking_takes_nothing():
    limiter = RateLimiter(requests_per_minute=6, burst=1)
    assert [limiter.wait_s("42", 0.0) for _ in range(5)] == [0] * 5
    assert takes(limiter, "42", 0.0)


def test_each_tenant_has_a_bucket_of_its_own():
    limiter = RateLimiter(requests_per_minute=60, burst=1)
    assert [takes(limiter, tenant_id, 0.0) for tenant_id in ("42", "43", "42")] == [True, True, False]


def test_a_call_that_is_given_back_can_be_taken_again():
    limiter = RateLimiter(requests_per_minute=60, burst=2)
    assert [takes(limiter, "42", 0.0) for _ in range(2)] == [True, True]
    limiter.give_back("42")
    assert [takes(limiter, "42", 0.0) for _ in range(2)] == [True, False]
    limiter.give_back("never seen")


def test_no_limit_is_no_limit_and_remembers_nobody():
    limiter = RateLimiter(requests_per_minute=0, burst=1)
    assert all(takes(limiter, f"{number}", 0.0) for number in range(1000))
    limiter.give_back("1")
    assert limiter._full_at_us == {}


def test_full_buckets_are_dropped_so_that_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(ratelimit, "_SWEEP_AT", 100)
    limiter = RateLimiter(requests_per_minute=60, burst=1)
    for number in range(10_000):
        assert takes(limiter, f"{number}", float(number))
    assert len(limiter._full_at_us) <= 101


def test_dropping_full_buckets_lets_no_emptied_one_go(monkeypatch):
    monkeypatch.setattr(ratelimit, "_SWEEP_AT", 100)
    limiter = RateLimiter(requests_per_minute=60, burst=1)
    for number in range(1000):
        takes(limiter, f"{number}", 0.0)
    assert not any(takes(limiter, f"{number}", 0.0) for number in range(1000))


@given(
    requests_per_minute=st.integers(1, 6000),
    burst=st.integers(1, 50),
    steps_ms=st.lists(st.integers(0, 5000), min_size=1, max_size=200),
)
def test_no_stretch_of_time_sees_more_than_burst_and_rate_allow(requests_per_minute, burst, steps_ms):
    limiter = RateLimiter(requests_per_minute=requests_per_minute, burst=burst)
    now_ms, taken_at_ms = 0, []
    for step_ms in steps_ms:
        now_ms += step_ms
        if takes(limiter, "42", now_ms / 1000):
            taken_at_ms.append(now_ms)
    # The interval between two calls is kept in whole microseconds, so the rate is that of the interval.
    interval_us = 60_000_000 // requests_per_minute
    for first, start_ms in enumerate(taken_at_ms):
        for last in range(first, len(taken_at_ms)):
            refilled = (taken_at_ms[last] - start_ms) * 1000 // interval_us
            assert last - first + 1 <= burst + refilled


@pytest.mark.parametrize("burst", [1, 20])
def test_a_bucket_that_rests_is_full(burst):
    limiter = RateLimiter(requests_per_minute=100, burst=burst)
    for now_s in (0.0, 60.0, 120.0):
        assert sum(takes(limiter, "42", now_s) for _ in range(200)) == burst
