import pytest

from harness.clock import FakeClock
from tollhouse.instances.lease import Lease

LEASE_S = 10.0
SAFE_S = 7.5
"""Three quarters: others may count the whole lease by clocks that run faster."""


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def lease(clock):
    return Lease(clock, LEASE_S)


def test_before_it_was_registered_an_instance_holds_nothing(lease):
    assert not lease.holds(0)
    assert not lease.holds(1)


def test_a_registration_holds_until_the_lease_may_be_over_for_others(clock, lease):
    lease.begin(7, clock.monotonic_s())
    assert lease.holds(7)
    clock.advance(SAFE_S - 0.001)
    assert lease.holds(7)
    clock.advance(0.001)
    assert not lease.holds(7)


def test_a_heartbeat_counts_from_when_it_was_sent_however_late_it_was_answered(clock, lease):
    lease.begin(7, clock.monotonic_s())
    clock.advance(5)
    sent_at_s = clock.monotonic_s()
    clock.advance(4)
    assert not lease.holds(7)
    lease.renew(sent_at_s)
    assert lease.holds(7)
    clock.advance(SAFE_S - 4)
    assert not lease.holds(7)


def test_what_an_earlier_life_began_is_held_no_more(clock, lease):
    lease.begin(7, clock.monotonic_s())
    lease.begin(9, clock.monotonic_s())
    assert lease.holds(9)
    assert not lease.holds(7)
    assert not lease.holds(8)


def test_the_wall_clock_has_no_say(clock, lease):
    lease.begin(7, clock.monotonic_s())
    clock.set("2030-01-01T00:00:00Z")
    assert lease.holds(7)
    clock.set("2020-01-01T00:00:00Z")
    clock.advance(SAFE_S)
    assert not lease.holds(7)


def test_a_lease_that_was_given_up_never_holds_again(clock, lease):
    lease.begin(7, clock.monotonic_s())
    lease.end()
    assert not lease.holds(7)
    lease.renew(clock.monotonic_s())
    lease.begin(9, clock.monotonic_s())
    assert not lease.holds(9)
