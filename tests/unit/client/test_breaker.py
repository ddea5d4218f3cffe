"""The circuit breaker: what opens it, who probes, what closes it."""

import contextlib
import threading

import pytest

from tollhouse.client import errors
from tollhouse.client.breaker import CircuitBreaker
from tollhouse.client.settings import BreakerPolicy

FAILURES = [
    errors.NotConnected("m"),
    errors.ConnectionLost("m"),
    errors.DeadlineExceeded("m"),
    errors.GatewayError("m", status=502),
]
ALIVE = [None, errors.Unavailable("m"), errors.CallTimeout("m"), errors.BudgetExceeded("m"), errors.InternalError("m")]
SAYS_NOTHING = [
    errors.PoolExhausted("m"),
    errors.TrustRefused("m"),
    errors.UnexpectedAnswer("m", status=404),
    errors.GatewayError("m", status=429),
    KeyboardInterrupt(),
]


class Time:
    now_s = 50.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def breaker(time):
    return CircuitBreaker(BreakerPolicy(failures=3, open_s=10), time, lambda low, high: low)


def name(error):
    return f"{type(error).__name__}-{getattr(error, 'status', None)}"


def attempt(breaker, error=None, *, counts_timeouts=True):
    with contextlib.suppress(errors.TollhouseError, KeyboardInterrupt), breaker.permit(counts_timeouts=counts_timeouts):
        if error is not None:
            raise error


def opened(breaker):
    for _ in range(3):
        attempt(breaker, errors.NotConnected("m"))
    return breaker


@pytest.mark.parametrize("error", FAILURES, ids=name)
def test_failures_in_a_row_open_it_and_nothing_is_sent_then(breaker, time, error):
    for _ in range(3):
        assert breaker.state == "closed"
        attempt(breaker, error)
    assert breaker.state == "open"
    time.now_s += 4
    with pytest.raises(errors.CircuitOpen) as caught:
        breaker.permit(counts_timeouts=True)
    assert caught.value.retry_after_s == 6


@pytest.mark.parametrize("error", ALIVE, ids=name)
def test_whatever_tollhouse_answers_shows_that_it_is_there(breaker, error):
    for _ in range(5):
        attempt(breaker, errors.ConnectionLost("m"))
        attempt(breaker, errors.ConnectionLost("m"))
        attempt(breaker, error)
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=name)
def test_what_says_nothing_of_the_service_neither_opens_nor_closes_it(breaker, time, error):
    for _ in range(5):
        attempt(breaker, error)
    assert breaker.state == "closed"
    attempt(breaker, errors.NotConnected("m"))
    attempt(breaker, errors.NotConnected("m"))
    attempt(breaker, error)
    attempt(breaker, errors.NotConnected("m"))
    assert breaker.state == "open"


def test_a_timeout_of_a_try_that_was_not_given_its_time_says_nothing(breaker):
    for _ in range(5):
        attempt(breaker, errors.DeadlineExceeded("m"), counts_timeouts=False)
    assert breaker.state == "closed"


def test_one_probe_at_a_time_and_its_success_closes_it(breaker, time):
    opened(breaker)
    time.now_s += 10
    assert breaker.state == "half-open"
    with breaker.permit(counts_timeouts=True), pytest.raises(errors.CircuitOpen):
        breaker.permit(counts_timeouts=True)
    assert breaker.state == "closed"
    attempt(breaker, errors.NotConnected("m"))
    assert breaker.state == "closed"


def test_a_probe_that_fails_opens_it_for_as_long_again(breaker, time):
    opened(breaker)
    time.now_s += 10
    attempt(breaker, errors.ConnectionLost("m"))
    assert breaker.state == "open"
    time.now_s += 9.9
    assert breaker.state == "open"
    time.now_s += 0.1
    assert breaker.state == "half-open"


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=name)
def test_a_probe_that_says_nothing_gives_its_place_back(breaker, time, error):
    opened(breaker)
    time.now_s += 10
    attempt(breaker, error)
    assert breaker.state == "half-open"
    attempt(breaker)
    assert breaker.state == "closed"


def test_a_try_from_before_it_opened_does_not_close_it(breaker):
    early = breaker.permit(counts_timeouts=True)
    opened(breaker)
    with early:
        pass
    assert breaker.state == "open"


def test_without_a_policy_it_never_opens(time):
    breaker = CircuitBreaker(None, time, lambda low, high: low)
    for _ in range(100):
        attempt(breaker, errors.NotConnected("m"))
    assert breaker.state == "closed"


def test_of_many_threads_one_probes(breaker, time):
    opened(breaker)
    time.now_s += 10
    granted, refused, together = [], [], threading.Barrier(16)

    def try_it():
        together.wait()
        try:
            granted.append(breaker.permit(counts_timeouts=True))
        except errors.CircuitOpen as error:
            refused.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(refused)) == (1, 15)
