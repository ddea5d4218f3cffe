"""A module switched off and on while calls run: from the moment the switch is told to be off, nothing is dispatched."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import uvloop

from harness.load import Outcome, until
from harness.reckoning import number_of, numbered, reckon
from harness.service import Service, TenantId, eventually, limits, model, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

CALLERS = 30


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    return _fake


@pytest.fixture(scope="module")
def service(_fake, tmp_path_factory) -> Iterator[Service]:
    config = providers(_fake) + model("m", "anthropic") + limits()
    with serving(tmp_path_factory.mktemp("service"), config) as service:
        yield service


def module_switch(service: Service, tenant: TenantId) -> Callable[[bool], object]:
    return lambda is_on: service.tenant(tenant, is_active=is_on)


def feature_switch(service: Service, tenant: TenantId) -> Callable[[bool], object]:
    path = f"/admin/tenants/{tenant}/features/sales-summary"
    return lambda is_on: service.admin("PUT", path, {"is_enabled": is_on})


@pytest.mark.parametrize(
    ("switch", "code"), [(module_switch, "ai_module_inactive"), (feature_switch, "ai_feature_disabled")]
)
def test_no_call_that_begins_after_the_switch_was_told_to_be_off_is_dispatched(service, fake, switch, code):
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(delay_s=0.003))
    turn = switch(service, tenant)
    begun = 0
    spans: list[tuple[bool, int, int]] = []

    def counted() -> Iterator[tuple[int, bytes]]:
        nonlocal begun
        for number, call in numbered(tenant, key):
            begun = number + 1
            yield number, call

    def wait_until_begun(number: int) -> None:
        eventually(lambda: begun > number)

    def toggle() -> None:
        wait_until_begun(3 * CALLERS)
        for is_on in [False, True] * 6:
            turn(is_on)
            # The switch is known to be thrown: all calls from here on, until it is thrown again, must see it so.
            start = begun
            wait_until_begun(start + 4 * CALLERS)
            spans.append((is_on, start, begun))

    outcomes: dict[int, Outcome] = {
        outcome.number: outcome
        for outcome in uvloop.run(until(lambda: asyncio.to_thread(toggle), service.port, counted(), callers=CALLERS))
    }

    dispatched = {number_of(receipt) for receipt in fake.receipts()}
    refused = {number for number, outcome in outcomes.items() if outcome.status == 403}
    print(
        f"{Counter(outcome.status for outcome in outcomes.values())}, {len(dispatched)} dispatched, {len(spans)} spans"
    )
    assert {outcome.json["error"] for outcome in outcomes.values() if outcome.status != 200} == {code}
    assert not refused & dispatched
    for is_on, start, end in spans:
        # The last of a span may still have been on their way when the switch was thrown again.
        span = range(start, max(start, end - CALLERS))
        assert len(span) > 0, "there were calls in each span"
        assert {outcomes[number].status for number in span} == ({200} if is_on else {403})
    reckon(service, fake, tenant, list(outcomes.values())).check()
