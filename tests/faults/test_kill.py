"""kill -9 under load: whatever the moment, no call is without a row, no acknowledged row is lost, none is doubled."""

import asyncio
import random
import time
from collections.abc import Iterator

import pytest
import uvloop

from harness.load import Outcome, all_at_once, until
from harness.reckoning import numbered, numbered_call, reckon
from harness.service import Service, TenantId, eventually, limits, model, providers
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
    with Service(tmp_path_factory.mktemp("service"), config) as service:
        yield service


def kill_in_the_midst(service: Service, calls: Iterator[tuple[int, bytes]], *, after_s: float) -> list[Outcome]:
    """Run calls, kill the service so long after the first were entered, and start it again."""
    entered = len(service.rows())

    def kill() -> None:
        eventually(lambda: len(service.rows()) > entered + CALLERS)
        time.sleep(after_s)
        service.kill()

    outcomes = uvloop.run(until(lambda: asyncio.to_thread(kill), service.port, calls, callers=CALLERS))
    service.start()
    return outcomes


def rounds(service: Service, fake: FakeProvider, how_many: int) -> None:
    moments = random.Random(4)
    tenant, key = service.tenant(), service.new_key()["key"]
    outcomes: list[Outcome] = []
    for number in range(how_many):
        # From answers at once, so that most of the work is the service's own, to some that take a while.
        fake.behave(Behaviour(delay_s=moments.choice([0.0, 0.002, 0.02]), input_tokens=9))
        calls = numbered(tenant, key, start=100_000 * number, is_idempotent=True)
        new = kill_in_the_midst(service, calls, after_s=moments.uniform(0.0, 0.4))
        outcomes += new
        assert {outcome.status for outcome in new} == {200, None}, "there were answers, and calls in flight"
        print(f"kill {number + 1}:", end=" ")
        reckon(service, fake, tenant, outcomes).check()
    ask_again(service, fake, tenant, key, outcomes[-2000:])
    assert service.verify().returncode == 0


def ask_again(service: Service, fake: FakeProvider, tenant: TenantId, key: str, asked: list[Outcome]) -> None:
    """Every caller repeats its call under its idempotency key: none is paid for twice, and no answer is another."""
    fake.behave(Behaviour())
    repeated = [numbered_call(outcome.number, tenant, key, is_idempotent=True) for outcome in asked]
    again = uvloop.run(all_at_once(service.port, repeated))
    for first, second in zip(asked, again, strict=True):
        if first.status == 200:
            assert second.body == first.body
        else:
            # Answered now, or before the kill, or perhaps billed and lost: then it is not made a second time.
            assert second.status in {200, 504}, second.json
    print("asked again:", end=" ")
    reckon(service, fake, tenant, [*asked, *again]).check()


def test_after_each_of_3_kills_nothing_is_lost_and_nothing_doubled(service, fake):
    rounds(service, fake, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_each_of_20_kills_nothing_is_lost_and_nothing_doubled(service, fake):
    rounds(service, fake, 20)


def test_calls_in_flight_at_a_kill_are_held_at_their_ceilings(service, fake):
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(hang=True))

    async def kill() -> None:
        while len(fake.receipts()) < CALLERS:
            await asyncio.sleep(0.01)
        service.kill()

    outcomes = uvloop.run(until(kill, service.port, numbered(tenant, key), callers=CALLERS))
    service.start()

    assert {outcome.status for outcome in outcomes} == {None}
    found = reckon(service, fake, tenant, outcomes)
    found.check()
    assert (found.receipts, found.unknown, found.settled) == (CALLERS, CALLERS, 0)
    rows, budget = service.rows(tenant_id=tenant), service.budget(tenant)
    assert budget["posted_nano_usd"] == 0
    assert budget["reserved_nano_usd"] == sum(row["cost_nano_usd"] for row in rows) > 0
    # A second crash on top of it changes nothing.
    service.kill()
    service.start()
    assert service.rows(tenant_id=tenant) == rows
    assert service.findings() == []
