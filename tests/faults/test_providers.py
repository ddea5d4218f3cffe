"""Providers that cut connections, hang, answer garbage or too much, or count wrongly, at the edge of a cap."""

import pytest
import uvloop

from harness.calls import NANO
from harness.faults import billed_nano_usd, ceiling_of_numbered, measure, new_key, set_cap
from harness.load import all_at_once
from harness.reckoning import number_of, numbered_call
from harness.service import eventually
from tollhouse.testing import Behaviour

CALLS, FITTING = 60, 40
LATE_S, TIMEOUT_S = 0.8, 0.3

SCENARIOS = {
    "resets the connection": (Behaviour(reset="before_answer"), {503, 402}),
    "resets the connection in its answer": (Behaviour(reset="mid_answer"), {503, 402}),
    "hangs": (Behaviour(hang=True), {504, 402}),
    "answers after the deadline": (Behaviour(delay_s=LATE_S), {504, 402}),
    "answers garbage": (Behaviour(garbage=True), {503, 402}),
    "is behind a proxy that lost its answer": (Behaviour(status=502, bare=True), {503, 402}),
    "tells no usage": (Behaviour(usage="omitted"), {200, 402}),
    "tells a usage of zero": (Behaviour(usage="zero"), {200, 402}),
    "tells a malformed usage": (Behaviour(usage="malformed"), {200, 402}),
    "answers twice as much as max_tokens": (Behaviour(output_factor=2.0, delay_s=0.1), {200, 402}),
}


@pytest.mark.parametrize("what", SCENARIOS)
def test_whatever_a_provider_does_no_more_is_spent_than_was_reserved(service, instances, ports, fake, what):
    behaviour, statuses = SCENARIOS[what]
    tenant, key = service.tenant(), new_key(instances)
    cap = FITTING * ceiling_of_numbered(10) + 1
    set_cap(service, tenant, cap)
    fake.behave(behaviour)

    # Where no deadline is to pass, none does on a machine that is busy with other tests.
    timeout_s = TIMEOUT_S if 504 in statuses else 30
    calls = [numbered_call(number, tenant, key, timeout_s=timeout_s) for number in range(10, 10 + CALLS)]
    outcomes = uvloop.run(all_at_once(ports, calls))
    for number, outcome in enumerate(outcomes, start=10):
        outcome.number = number

    assert {outcome.status for outcome in outcomes} <= statuses
    eventually(lambda: not service.open_reservations())
    budget = service.budget(tenant)
    rows = service.rows(tenant_id=tenant)
    # The one residual way past a cap: what a provider bills beyond the limits that it was given.
    beyond = sum(max(0, billed_nano_usd(each) - ceiling_of_numbered(number_of(each))) for each in fake.receipts())
    assert (beyond > 0) == (behaviour.output_factor == 2.0)
    figures = measure(service, fake, tenant, outcomes, cap_nano_usd=cap, bills_beyond=beyond)
    figures.check(f"provider {what}", billed_beyond_its_limits=beyond)
    if {200} & statuses:
        assert {row["status"] for row in rows} == {"settled"}
        assert budget["reserved_nano_usd"] == 0
        told = sum(int(outcome.json["cost_usd"] * NANO) for outcome in outcomes if outcome.status == 200)
        assert budget["posted_nano_usd"] == told == sum(row["cost_nano_usd"] for row in rows)
    else:
        assert {row["status"] for row in rows} == {"unknown"}
        assert (budget["posted_nano_usd"], len(rows)) == (0, FITTING)
        assert budget["reserved_nano_usd"] == FITTING * ceiling_of_numbered(10)
    # A provider that has come to its senses is called again as far as there is anything left.
    fake.behave(Behaviour())
    left = cap - budget["posted_nano_usd"] - budget["reserved_nano_usd"]
    (after,) = uvloop.run(all_at_once(ports[:1], [numbered_call(99, tenant, key)]))
    assert after.status == (200 if left >= ceiling_of_numbered(99) else 402)


def test_a_timeout_and_then_success_is_billed_once_each_and_told_apart(service, instances, ports, fake):
    """A caller whose call timed out asks again under a new key: the first is held, and the second is settled."""
    tenant, key = service.tenant(), new_key(instances)
    count = 30
    fake.behave(Behaviour(delay_s=LATE_S))
    calls = [numbered_call(number, tenant, key, timeout_s=TIMEOUT_S) for number in range(count)]
    first = uvloop.run(all_at_once(ports, calls))
    fake.behave(Behaviour())
    calls = [numbered_call(number, tenant, key, timeout_s=TIMEOUT_S) for number in range(count, 2 * count)]
    second = uvloop.run(all_at_once(ports, calls))
    for outcome in second:
        outcome.number += count

    assert {outcome.status for outcome in first} == {504}
    assert {outcome.status for outcome in second} == {200}
    figures = measure(service, fake, tenant, first + second)
    figures.check("provider times out, then succeeds")
    assert figures.further["unknown"] == count


def test_calls_that_a_provider_turns_away_at_first_are_billed_once(service, instances, ports, fake):
    tenant, key = service.tenant(), new_key(instances)
    count = 40
    fake.script([Behaviour(status=status) for status in (429, 500, 503, 529) for _ in range(count // 4)])

    outcomes = uvloop.run(all_at_once(ports, [numbered_call(number, tenant, key) for number in range(count)]))

    assert {outcome.status for outcome in outcomes} <= {200, 503}
    served = sum(outcome.status == 200 for outcome in outcomes)
    assert served > count // 2
    measure(service, fake, tenant, outcomes).check("provider turns calls away, then succeeds")
    assert len(service.rows(tenant_id=tenant)) == served
    assert service.budget(tenant)["reserved_nano_usd"] == 0
