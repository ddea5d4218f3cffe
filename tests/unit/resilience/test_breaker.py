"""The circuit breaker: when it opens, who may probe it, and how it comes back."""

import pytest

from tollhouse.resilience.breaker import NO_PERMIT, BreakerSettings, CircuitBreaker
from tollhouse.resilience.window import SlidingWindow

SETTINGS = BreakerSettings(
    window_s=10.0,
    min_calls=10,
    failure_rate=0.5,
    consecutive_failures=1000,
    open_s=4.0,
    max_open_s=30.0,
    slow_start_s=8.0,
)


class Watched:
    """A breaker at a time that the test moves, with the states it went through."""

    def __init__(self, **changes):
        self.now_s = 1000.0
        self.states: list[str] = []
        settings = BreakerSettings(**{f: getattr(SETTINGS, f) for f in SETTINGS.__struct_fields__} | changes)
        self.breaker = CircuitBreaker(settings, lambda change: self.states.append(change.after))

    def take(self, **how):
        return self.breaker.acquire(self.now_s, **how)

    def succeed(self, duration_s=0.1, times=1):
        for _ in range(times):
            self.breaker.succeeded(self.take(), self.now_s, duration_s)

    def fail(self, times=1, pause_s=None):
        for _ in range(times):
            self.breaker.failed(self.take(), self.now_s, 0.1, pause_s)

    @property
    def state(self):
        return self.breaker.state

    def open(self):
        self.fail(10)
        assert self.state == "open"

    def wait_for_probe(self):
        self.now_s += self.breaker.probe_in_s(self.now_s)


@pytest.mark.parametrize(
    ("failures", "successes", "state"), [(9, 0, "closed"), (10, 0, "open"), (5, 5, "open"), (4, 6, "closed")]
)
def test_it_opens_at_its_failure_rate_once_there_were_enough_calls(failures, successes, state):
    watched = Watched()
    watched.succeed(times=successes)
    watched.fail(failures)
    assert watched.state == state


def test_what_is_older_than_the_window_does_not_count():
    watched = Watched()
    watched.fail(9)
    watched.now_s += 10.0
    watched.succeed(times=9)
    watched.fail()
    assert watched.state == "closed"
    assert watched.breaker.snapshot(watched.now_s).calls == 10


def test_failures_in_a_row_open_it_though_the_window_is_full_of_successes():
    watched = Watched(consecutive_failures=5)
    watched.succeed(times=500)
    watched.fail(4)
    watched.succeed()
    watched.fail(4)
    assert watched.state == "closed"
    watched.fail()
    assert watched.state == "open"


def test_slow_calls_open_it_though_they_succeed():
    watched = Watched(slow_call_s=2.0, slow_call_rate=0.8)
    watched.succeed(duration_s=2.0, times=2)
    watched.succeed(duration_s=2.1, times=7)
    assert watched.state == "closed"
    watched.succeed(duration_s=9.0)
    assert watched.state == "open"


def test_a_call_that_its_caller_cut_short_counts_as_slow_at_most():
    watched = Watched(slow_call_s=2.0)
    for _ in range(30):
        watched.breaker.ignore(watched.take(), watched.now_s, 1.0)
    assert watched.breaker.snapshot(watched.now_s).calls == 0
    for _ in range(10):
        watched.breaker.ignore(watched.take(), watched.now_s, 3.0)
    assert watched.state == "open"


def test_an_open_one_lets_nothing_through_until_its_time_is_over():
    watched = Watched()
    watched.open()
    assert [watched.take() for _ in range(3)] == [NO_PERMIT] * 3
    assert watched.breaker.refused == 3
    assert 3.6 <= watched.breaker.probe_in_s(watched.now_s) <= 4.4
    assert not watched.breaker.would_permit(watched.now_s)
    watched.wait_for_probe()
    assert watched.breaker.would_permit(watched.now_s)
    assert watched.take() != NO_PERMIT
    assert watched.state == "half_open"


def test_only_one_call_probes_at_a_time():
    watched = Watched()
    watched.open()
    watched.wait_for_probe()
    probe = watched.take()
    assert [watched.take() for _ in range(5)] == [NO_PERMIT] * 5
    # It was never made, or cancelled: the next one probes.
    watched.breaker.ignore(probe, watched.now_s)
    assert watched.take() != NO_PERMIT
    assert watched.take() == NO_PERMIT


@pytest.mark.parametrize("how", ["succeeded", "answered"])
def test_a_probe_that_is_answered_closes_it(how):
    watched = Watched()
    watched.open()
    watched.wait_for_probe()
    if how == "succeeded":
        watched.succeed()
    else:
        watched.breaker.answered(watched.take(), watched.now_s)
    assert watched.states == ["open", "half_open", "closed"]
    assert watched.breaker.snapshot(watched.now_s).failure_rate == 0


def test_each_probe_that_fails_keeps_it_open_for_twice_as_long_up_to_a_bound():
    watched = Watched()
    watched.open()
    waited = []
    for _ in range(5):
        waited.append(watched.breaker.probe_in_s(watched.now_s))
        watched.wait_for_probe()
        watched.fail()
    for expected_s, found_s in zip([4, 8, 16, 30, 30], waited, strict=True):
        assert 0.9 * expected_s <= found_s <= 1.1 * expected_s
    # After a while in good health it begins anew.
    watched.wait_for_probe()
    watched.succeed()
    watched.now_s += 11
    watched.open()
    assert watched.breaker.probe_in_s(watched.now_s) <= 4.4


def test_a_probe_that_is_slow_does_not_close_it():
    watched = Watched(slow_call_s=1.0)
    watched.open()
    watched.wait_for_probe()
    watched.succeed(duration_s=5.0)
    assert watched.state == "open"


def test_it_stays_open_for_as_long_as_the_provider_asks_within_its_bound():
    watched = Watched()
    watched.fail(9)
    watched.fail(pause_s=20.0)
    assert watched.breaker.probe_in_s(watched.now_s) == 20.0
    watched.wait_for_probe()
    watched.fail(pause_s=86_400.0)
    assert watched.breaker.probe_in_s(watched.now_s) == 30.0


def test_calls_from_before_a_change_of_state_say_nothing_after_it():
    watched = Watched()
    early = [watched.take() for _ in range(30)]
    watched.open()
    watched.wait_for_probe()
    probe = watched.take()
    for permit in early[:10]:
        watched.breaker.succeeded(permit, watched.now_s, 0.1)
    for permit in early[10:20]:
        watched.breaker.ignore(permit, watched.now_s)
    assert watched.state == "half_open"
    assert watched.take() == NO_PERMIT
    watched.breaker.succeeded(probe, watched.now_s, 0.1)
    for permit in early[20:]:
        watched.breaker.failed(permit, watched.now_s)
    assert watched.breaker.snapshot(watched.now_s).calls == 0


def test_after_a_recovery_the_share_of_calls_grows_while_others_answer():
    watched = Watched()
    watched.open()
    watched.wait_for_probe()
    watched.succeed()

    def let_through(times=100):
        return sum(watched.take(has_alternative=True) != NO_PERMIT for _ in range(times))

    assert 8 <= let_through() <= 11
    watched.now_s += 4.0
    assert 48 <= let_through() <= 52
    # Where nobody else would answer, nothing is gained by refusing.
    assert all(watched.take() != NO_PERMIT for _ in range(20))
    watched.now_s += 4.0
    assert let_through() == 100


def test_a_window_forgets_slice_by_slice():
    window = SlidingWindow(10.0)
    for second in range(10):
        window.add(100.0 + second, is_failure=second % 2 == 0, is_slow=True)
    assert (window.calls, window.failures, window.slow) == (10, 5, 10)
    window.age(110.5)
    assert (window.calls, window.failures) == (9, 4)
    window.age(118.0)
    assert (window.calls, window.failures) == (1, 0)
    window.age(500.0)
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)
