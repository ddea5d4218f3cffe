"""kill -9 under load: whatever the moment, no call is without a row, no acknowledged row is lost, none is doubled."""

import asyncio
import random
import time
from collections.abc import Iterator
from itertools import islice

import pytest
import uvloop

from harness.faults import measure, seconds_until_served
from harness.load import Outcome, all_at_once, until
from harness.reckoning import numbered, numbered_call
from harness.service import Service, TenantId, eventually, limits, model, providers
from tollhouse.testing import Behaviour, FakeProvider

CALLERS = 40


@pytest.fixture(scope="module")
def service(engine, _fake, tmp_path_factory) -> Iterator[Service]:
    config = providers(_fake, max_connections=3000) + model("m", "anthropic") + limits()
    with Service(tmp_path_factory.mktemp("service"), config) as service:
        yield service


def start_again(service: Service) -> float:
    """Start a killed service; return how long it takes until what it left is held, which on PostgreSQL is a lease."""
    started_s = time.monotonic()
    service.start()
    eventually(lambda: not service.open_reservations())
    return time.monotonic() - started_s


def kill_in_the_midst(service: Service, calls: Iterator[tuple[int, bytes]], *, after_s: float) -> list[Outcome]:
    """Run calls, and kill the service so long after the first were entered."""
    entered = len(service.rows())

    def kill() -> None:
        eventually(lambda: len(service.rows()) > entered + CALLERS)
        time.sleep(after_s)
        service.kill()

    return uvloop.run(until(lambda: asyncio.to_thread(kill), service.port, calls, callers=CALLERS))


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
        held_s = start_again(service)
        found = measure(service, fake, tenant, outcomes)
        found.check(f"kill -9 under load, kill {number + 1} of {how_many}", recovered_s=held_s)
    ask_again(service, fake, tenant, key, outcomes[-2000:], outcomes[:-2000])


def ask_again(
    service: Service, fake: FakeProvider, tenant: TenantId, key: str, asked: list[Outcome], before: list[Outcome]
) -> None:
    """Every caller repeats its call under its idempotency key: none is paid for twice, and no answer is another."""
    fake.behave(Behaviour())
    repeated = [numbered_call(outcome.number, tenant, key, is_idempotent=True) for outcome in asked]
    again = uvloop.run(all_at_once(service.port, repeated))
    for first, second in zip(asked, again, strict=True):
        second.number = first.number
        if first.status == 200:
            assert second.body == first.body
        else:
            # Answered now, or before the kill, or perhaps billed and lost: then it is not made a second time.
            assert second.status in {200, 504}, second.json
    measure(service, fake, tenant, again, earlier=before + asked).check("kill -9 under load, asked again")


def test_after_a_kill_nothing_is_lost_and_nothing_doubled(service, fake):
    rounds(service, fake, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_each_of_20_kills_nothing_is_lost_and_nothing_doubled(service, fake):
    rounds(service, fake, 20)


def kill_with_in_flight(service: Service, fake: FakeProvider, count: int) -> None:
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(hang=True))

    async def scenario() -> list[Outcome]:
        requests = [request for _, request in islice(numbered(tenant, key), count)]
        calls = asyncio.create_task(all_at_once(service.port, requests))
        while len(fake.receipts()) < count:
            await asyncio.sleep(0.01)
        service.kill()
        return await calls

    outcomes = uvloop.run(scenario())
    assert {outcome.status for outcome in outcomes} == {None}
    held_s = start_again(service)
    rows, budget = service.rows(tenant_id=tenant), service.budget(tenant)
    fake.behave(Behaviour())
    served_s = seconds_until_served(service, service.tenant())
    found = measure(service, fake, tenant, outcomes)
    found.check(f"kill -9 with {count} in flight", recovered_s=held_s, then_served_after_s=f"{served_s:.3f}")
    assert (len(rows), {row["status"] for row in rows}) == (count, {"unknown"})
    assert budget["posted_nano_usd"] == 0
    assert budget["reserved_nano_usd"] == sum(row["cost_nano_usd"] for row in rows) > 0


def test_calls_in_flight_at_a_kill_are_held_at_their_ceilings(service, fake):
    kill_with_in_flight(service, fake, 300)


@pytest.mark.slow
def test_2000_calls_in_flight_at_a_kill_are_held_at_their_ceilings(service, fake):
    kill_with_in_flight(service, fake, 2000)
    # A second crash on top of it changes nothing.
    rows = service.rows()
    service.kill()
    start_again(service)
    assert service.rows() == rows
    assert service.verify().returncode == 0
