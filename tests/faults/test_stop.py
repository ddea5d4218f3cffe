"""SIGTERM under load: every call that was taken is answered and entered, and no other is taken."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from harness.load import until
from harness.reckoning import number_of, numbered, reckon
from harness.service import Service, eventually, limits, model, providers
from tollhouse.testing import Behaviour, FakeProvider

CALLERS = 40


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
    with Service(tmp_path_factory.mktemp("service"), config, server="stop_timeout_s = 1") as service:
        yield service


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_a_stop_under_load_answers_every_call_that_was_taken(service, fake, delay_s):
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(delay_s=delay_s))
    exit_codes = []

    async def stop() -> None:
        while len(fake.receipts()) < 2 * CALLERS:
            await asyncio.sleep(0.01)
        exit_codes.append(await asyncio.to_thread(service.terminate))

    outcomes = uvloop.run(until(stop, service.port, numbered(tenant, key), callers=CALLERS))

    assert exit_codes == [0]
    assert {outcome.status for outcome in outcomes} <= {200, None}
    taken = {number_of(receipt) for receipt in fake.receipts()}
    unanswered = {outcome.number for outcome in outcomes if outcome.status is None}
    assert not taken & unanswered
    found = reckon(service, fake, tenant, outcomes)
    found.check()
    assert (found.settled, found.unknown) == (found.answered, 0)
    service.start()
    assert len(service.rows(tenant_id=tenant)) == found.settled, "the next start finds nothing to recover"


def test_a_call_that_outlasts_the_stop_is_given_up_and_held_as_unknown(service, fake):
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(hang=True))

    async def stop() -> None:
        await asyncio.to_thread(eventually, lambda: len(fake.receipts()) == 3)
        assert await asyncio.to_thread(service.terminate) == 0

    outcomes = uvloop.run(until(stop, service.port, numbered(tenant, key), callers=3))

    service.start()
    found = reckon(service, fake, tenant, outcomes)
    found.check()
    assert (found.settled, found.unknown) == (0, 3)
    assert service.budget(tenant)["reserved_nano_usd"] > 0
