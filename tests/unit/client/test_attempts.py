"""Which failures are tried again, and when."""

import pytest

from tollhouse.client import errors
from tollhouse.client.attempts import Attempts, again
from tollhouse.client.request import Request
from tollhouse.client.settings import RetryPolicy, Settings

AGAIN = {
    errors.RequestTimeout: "yes",
    errors.IdempotencyInFlight: "answer under way",
    errors.RateLimited: "yes",
    errors.Unavailable: "yes",
    errors.CallTimeout: "once",
    errors.NotConnected: "yes",
    errors.ConnectionLost: "yes",
}


def every(base):
    return [base, *(deeper for each in base.__subclasses__() for deeper in every(each))]


@pytest.mark.parametrize("kind", [kind for kind in every(errors.TollhouseError) if kind is not errors.GatewayError])
def test_only_what_the_contract_allows_is_tried_again(kind):
    assert again(kind("m")) == AGAIN.get(kind, "never")


@pytest.mark.parametrize(
    ("status", "verdict"), [(429, "yes"), (502, "yes"), (503, "yes"), (504, "once"), (500, "never"), (501, "never")]
)
def test_a_gateways_errors(status, verdict):
    assert again(errors.GatewayError("m", status=status)) == verdict


class Time:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return Time()


def attempts(time, *, timeout_s=60.0, uniform=lambda low, high: high, **policy):
    settings = Settings(url="http://t", api_key="k", clock=time, uniform=uniform, retry=RetryPolicy(**policy))
    return Attempts(Request("POST", "/ai/complete", [], b"{}", timeout_s, "key"), settings)


def test_pauses_double_up_to_the_longest(time):
    tried = attempts(time, max_tries=9, first_pause_s=0.5, longest_pause_s=3.0)
    assert [tried.pause_after_s(errors.Unavailable("m")) for _ in range(6)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_pauses_are_shortened_at_random_by_up_to_a_half(time):
    asked = []

    def note(low, high):
        asked.append((low, high))
        return low

    tried = attempts(time, first_pause_s=0.5, uniform=note)
    assert tried.pause_after_s(errors.Unavailable("m")) == 0.25
    assert asked == [(0.25, 0.5)]


def test_a_retry_after_is_kept_and_jittered_upwards_alone(time):
    error = errors.RateLimited("m", retry_after_s=7.0)
    assert attempts(time, uniform=lambda low, high: low).pause_after_s(error) == 7.0
    assert attempts(time, first_pause_s=0.5, uniform=lambda low, high: high).pause_after_s(error) == 7.25


def test_tries_are_bounded(time):
    tried = attempts(time, max_tries=3)
    assert [tried.pause_after_s(errors.ConnectionLost("m")) is None for _ in range(3)] == [False, False, True]
    assert attempts(time, max_tries=1).pause_after_s(errors.ConnectionLost("m")) is None


def test_a_pause_that_would_pass_the_deadline_ends_the_call_at_once(time):
    assert attempts(time, timeout_s=5).pause_after_s(errors.RateLimited("m", retry_after_s=5.0)) is None
    assert attempts(time, timeout_s=5).pause_after_s(errors.RateLimited("m", retry_after_s=4.0)) is not None
    late = attempts(time, timeout_s=5)
    time.now_s += 5
    assert late.pause_after_s(errors.Unavailable("m")) is None


def test_an_answer_under_way_is_waited_for_until_the_deadline_however_often(time):
    tried = attempts(time, timeout_s=60, max_tries=2)
    for _ in range(29):
        assert tried.pause_after_s(errors.IdempotencyInFlight("m", retry_after_s=1)) is not None
        time.now_s += 2
    time.now_s += 2
    assert tried.pause_after_s(errors.IdempotencyInFlight("m", retry_after_s=1)) is None


def test_a_timeout_is_tried_again_once_and_only_if_it_can_take_as_long_again(time):
    tried = attempts(time, timeout_s=60)
    tried.begin()
    time.now_s += 20
    assert tried.pause_after_s(errors.CallTimeout("m")) is not None
    tried.begin()
    assert tried.pause_after_s(errors.CallTimeout("m")) is None

    slow = attempts(time, timeout_s=60)
    slow.begin()
    time.now_s += 31
    assert slow.pause_after_s(errors.CallTimeout("m")) is None


def test_an_answer_is_waited_for_a_little_longer_than_the_server_takes(time):
    tried = attempts(time, timeout_s=10)
    assert tried.left_s() == 12.0
    time.now_s += 11
    assert tried.left_s() == 1.0


def test_a_circuit_that_opens_between_two_tries_tells_of_the_try_before(time):
    tried = attempts(time)
    lost = errors.ConnectionLost("m")
    assert tried.pause_after_s(lost) is not None
    assert tried.pause_after_s(errors.CircuitOpen("m")) is None
    assert tried.last is lost

    refused = attempts(time)
    assert refused.pause_after_s(errors.CircuitOpen("m")) is None
    assert isinstance(refused.last, errors.CircuitOpen)
    assert refused.has_full_time is False
