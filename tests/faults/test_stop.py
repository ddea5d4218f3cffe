"""SIGTERM under load: every call that was taken is answered and entered, and no other is taken."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from harness.faults import measure
from harness.load import until
from harness.reckoning import number_of, numbered
from harness.service import Service, eventually
from tollhouse.testing import Behaviour

CALLERS = 40


@pytest.fixture(scope="module")
def service(engine, config, tmp_path_factory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service"), config, server="stop_timeout_s = 1") as service:
        yield service


@pytest.mark.parametrize("delay_s", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
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
    figures = measure(service, fake, tenant, outcomes)
    figures.check(f"SIGTERM under load, answers after {delay_s} s")
    assert figures.further["unknown"] == 0
    rows = len(service.rows(tenant_id=tenant))
    service.start()
    assert len(service.rows(tenant_id=tenant)) == rows, "the next start finds nothing to recover"


def test_a_call_that_outlasts_the_stop_is_given_up_and_held_as_unknown(service, fake):
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(hang=True))

    async def stop() -> None:
        await asyncio.to_thread(eventually, lambda: len(fake.receipts()) == 3)
        assert await asyncio.to_thread(service.terminate) == 0

    outcomes = uvloop.run(until(stop, service.port, numbered(tenant, key), callers=3))

    service.start()
    # On PostgreSQL, once the lease of the process that is gone is over.
    eventually(lambda: not service.open_reservations())
    figures = measure(service, fake, tenant, outcomes)
    figures.check("SIGTERM, calls that outlast it")
    assert {row["status"] for row in service.rows(tenant_id=tenant)} == {"unknown"}
    assert figures.further["unknown"] == 3
    assert service.budget(tenant)["reserved_nano_usd"] > 0
