"""SIGSTOP past the lease, then SIGCONT: an instance that was taken for dead ends nothing that others have ended."""

import asyncio
import signal
import time
from collections.abc import Coroutine, Iterator
from itertools import islice

import pytest
import uvloop

from harness.faults import check_refusals, measure, new_key, seconds_until_served
from harness.load import Outcome, all_at_once, until
from harness.reckoning import number_of, numbered
from harness.service import LEASE_S, Service, eventually, serving
from tollhouse.testing import Behaviour

PAUSE_S = LEASE_S + 2.0


@pytest.fixture(scope="module")
def service(engine, config, tmp_path_factory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("paused"), config) as service:
        yield service


@pytest.fixture(scope="module")
def other(engine, service, config, tmp_path_factory) -> Iterator[Service]:
    """Another instance, which goes on."""
    with serving(tmp_path_factory.mktemp("other"), config, database=service.database) as other:
        yield other


@pytest.mark.engine("sqlite")
def test_an_only_process_goes_on_where_it_was(instances, fake):
    (service,) = instances
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(delay_s=0.05))
    continued: list[float] = []

    def pause() -> None:
        eventually(lambda: len(fake.receipts()) > 50)
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        service.process.send_signal(signal.SIGCONT)
        continued.append(time.monotonic())
        before = len(fake.receipts())
        eventually(lambda: len(fake.receipts()) > before + 50)

    outcomes = uvloop.run(until(lambda: asyncio.to_thread(pause), service.port, numbered(tenant, key), callers=20))

    assert {outcome.status for outcome in outcomes} == {200}
    measure(service, fake, tenant, outcomes).check(
        "SIGSTOP for 1.5 s, then SIGCONT", recovered_s=seconds_until_served(service, tenant, continued[0])
    )


@pytest.mark.engine("postgresql")
def test_an_instance_that_was_paused_past_its_lease_doubles_nothing_and_dispatches_nothing_of_then(
    service, other, fake
):
    """Its calls that were with the provider are held by the other; those that were not yet sent are not sent."""
    tenant, key = service.tenant(), new_key([service, other])
    # Longer than it takes to stop: the answers come while it is paused.
    fake.behave(Behaviour(delay_s=0.5))
    in_flight = 60
    times: dict[str, float] = {}

    def at_once(start: int, count: int) -> Coroutine[object, object, list[Outcome]]:
        return all_at_once(service.port, [request for _, request in islice(numbered(tenant, key, start=start), count)])

    async def scenario() -> tuple[list[Outcome], list[Outcome]]:
        async with asyncio.TaskGroup() as tasks:
            calls = tasks.create_task(at_once(0, in_flight))
            while len(fake.receipts()) < in_flight:
                await asyncio.sleep(0.005)
            service.process.send_signal(signal.SIGSTOP)
            times["stopped"] = time.monotonic()
            # More wait in its sockets meanwhile.
            waiting = tasks.create_task(at_once(1000, 20))
            await asyncio.to_thread(eventually, lambda: not other.open_reservations())
            times["held"] = time.monotonic()
            await asyncio.sleep(0.3)
            service.process.send_signal(signal.SIGCONT)
            times["continued"] = time.monotonic()
        return calls.result(), waiting.result()

    paused, waiting = uvloop.run(scenario())
    served_s = seconds_until_served(service, service.tenant(), times["continued"])

    for outcome in waiting:
        outcome.number += 1000
    # Each was ended by the other instance: its own may not be told as if it were settled.
    assert {outcome.status for outcome in paused} == {503}
    assert {row["status"] for row in service.rows(tenant_id=tenant) if int(row["user_id"]) < 1000} == {"unknown"}
    check_refusals(paused + waiting)
    dispatched = {number_of(receipt) for receipt in fake.receipts()}
    assert not {outcome.number for outcome in waiting if outcome.status == 503} & dispatched
    eventually(lambda: not service.open_reservations())
    figures = measure(service, fake, tenant, paused + waiting)
    held_s = times["held"] - times["stopped"]
    figures.check(
        "SIGSTOP past the lease, then SIGCONT", recovered_s=served_s, held_by_the_other_after_s=f"{held_s:.2f}"
    )


@pytest.mark.slow
@pytest.mark.engine("postgresql")
def test_under_load_from_both_instances_a_pause_doubles_nothing(service, other, fake):
    tenant, key = service.tenant(), new_key([service, other])
    fake.behave(Behaviour(delay_s=0.02))
    continued: list[float] = []

    def pause() -> None:
        eventually(lambda: len(fake.receipts()) > 200)
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_S)
        service.process.send_signal(signal.SIGCONT)
        continued.append(time.monotonic())
        seconds_until_served(service, service.tenant())
        time.sleep(0.5)

    calls = numbered(tenant, key)
    outcomes = uvloop.run(until(lambda: asyncio.to_thread(pause), [service.port, other.port], calls, callers=30))

    assert {outcome.status for outcome in outcomes} <= {200, 503}
    check_refusals(outcomes)
    eventually(lambda: not service.open_reservations())
    recovered_s = seconds_until_served(service, service.tenant(), continued[0])
    measure(service, fake, tenant, outcomes).check("SIGSTOP under load of two instances", recovered_s=recovered_s)
