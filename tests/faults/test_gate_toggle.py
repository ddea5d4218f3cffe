"""A module switched off and on while calls run: from the moment the switch is told to be off, nothing is dispatched."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import uvloop

from harness.faults import measure, new_key
from harness.load import until
from harness.reckoning import number_of, numbered
from harness.service import Service, TenantId, eventually
from tollhouse.testing import Behaviour, FakeProvider

CALLERS = 24


@dataclass
class Turn:
    """A switch that was thrown: between the two, it may be seen either way."""

    is_on: bool
    began_s: float
    ended_s: float


def module_switch(service: Service, tenant: TenantId) -> Callable[[bool], object]:
    return lambda is_on: service.tenant(tenant, is_active=is_on)


def feature_switch(service: Service, tenant: TenantId) -> Callable[[bool], object]:
    path = f"/admin/tenants/{tenant}/features/sales-summary"
    return lambda is_on: service.admin("PUT", path, {"is_enabled": is_on})


def toggled(
    services: list[Service],
    fake: FakeProvider,
    switch: Callable[[Service, TenantId], Callable[[bool], object]],
    code: str,
    *,
    times: int,
    longest_s: float,
    callers: int = CALLERS,
) -> None:
    service = services[0]
    tenant, key = service.tenant(), new_key(services)
    fake.behave(Behaviour(delay_s=0.003))
    turn = switch(service, tenant)
    turns: list[Turn] = []

    def toggle() -> None:
        chance = random.Random(times)
        eventually(lambda: len(fake.receipts()) > 3 * callers)
        for is_on in [False, True] * (times // 2):
            began_s = time.monotonic()
            turn(is_on)
            turns.append(Turn(is_on, began_s, time.monotonic()))
            time.sleep(chance.uniform(0, longest_s))
        time.sleep(0.05)

    ports = [each.port for each in services]
    stop = lambda: asyncio.to_thread(toggle)
    outcomes = uvloop.run(until(stop, ports, numbered(tenant, key), callers=callers, patience_s=1500))

    dispatched = {number_of(receipt) for receipt in fake.receipts()}
    assert {outcome.status for outcome in outcomes} == {200, 403}
    assert {outcome.json["error"] for outcome in outcomes if outcome.status == 403} == {code}
    assert not {outcome.number for outcome in outcomes if outcome.status == 403} & dispatched
    # Each call that began after a switch was told to be thrown, and ended before it was thrown again, has seen it so.
    spans = [(first.ended_s, second.began_s, first.is_on) for first, second in pairwise(turns)]
    spans.append((turns[-1].ended_s, float("inf"), True))
    seen: Counter[bool] = Counter()
    place = 0
    for outcome in sorted(outcomes, key=lambda each: each.sent_s):
        while spans[place][1] < outcome.sent_s:
            place += 1
        since_s, until_s, is_on = spans[place]
        if since_s <= outcome.sent_s and outcome.answered_s <= until_s:
            seen[is_on] += 1
            assert outcome.status == (200 if is_on else 403), (outcome, is_on)
            assert (outcome.number in dispatched) == is_on
    assert seen[False] >= times, "there were calls while it was off"
    # A call that is served may take longer than the switch stays on, and so few fall within; but it was open each time.
    assert seen[True] > 0
    assert len(dispatched) >= times // 2, "it was open in between"
    figures = measure(service, fake, tenant, outcomes)
    figures.check(
        f"gate toggled {times} times: {code}",
        dispatched_after_committed_403=0,
        judged_off=seen[False],
        judged_on=seen[True],
    )


@pytest.mark.parametrize(
    ("switch", "code"), [(module_switch, "ai_module_inactive"), (feature_switch, "ai_feature_disabled")]
)
def test_no_call_that_begins_after_the_switch_was_told_to_be_off_is_dispatched(instances, fake, switch, code):
    toggled(instances, fake, switch, code, times=20, longest_s=0.06)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_10000_turns_of_the_switch_none_lets_a_call_through(instances, fake):
    # Few callers, who leave the processors to the switch.
    toggled(instances, fake, module_switch, "ai_module_inactive", times=10_000, longest_s=0.02, callers=8)
