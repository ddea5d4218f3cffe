"""Months that end under load, and clocks that jump: each call is charged to the month it was admitted in."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from harness.calls import most_input_tokens
from harness.faults import (
    ceiling_of_numbered,
    certainly_false_402s,
    check_refusals,
    first_served_s,
    measure,
    new_key,
    set_cap,
)
from harness.faults_service import FaultyService, started
from harness.load import Outcome, until
from harness.reckoning import numbered, numbered_body
from harness.service import LEASE_S, eventually
from tollhouse.testing import Behaviour

CALLERS = 20
# Numbers of four digits: all calls have one ceiling.
FIRST = 1000
CEILING_NANO_USD = ceiling_of_numbered(FIRST)
PROCESSES = {"sqlite": 1, "postgresql": 2}


@pytest.fixture(scope="module")
def services(engine, config, tmp_path_factory) -> Iterator[list[FaultyService]]:
    folder = tmp_path_factory.mktemp("clocks")
    services = []
    for number in range(PROCESSES[engine]):
        (folder / str(number)).mkdir()
        services.append(FaultyService(folder / str(number), config, database=folder / "tollhouse.db"))
    with started(services):
        yield services


@pytest.fixture(autouse=True)
def _clocks_as_they_are(services: list[FaultyService]) -> Iterator[None]:
    yield
    for service in services:
        service.shift_clocks()


def next_month() -> datetime:
    return (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


def new_caller(services: list[FaultyService]) -> tuple[int | str, str]:
    return services[0].tenant(), new_key(services)


def test_a_month_that_ends_under_load_ends_for_each_call_at_its_admission(services, fake):
    """Both months' caps are used up to the last call, and neither pays for the other."""
    tenant, key = new_caller(services)
    held = 150
    cap = held * CEILING_NANO_USD + CEILING_NANO_USD - 1
    set_cap(services[0], tenant, cap)
    # Each call costs its whole ceiling.
    most = most_input_tokens(numbered_body(FIRST, tenant))
    fake.behave(Behaviour(input_tokens=most, use_full_max_tokens=True, delay_s=0.03))
    before = datetime.now(UTC).strftime("%Y-%m")
    after = next_month().strftime("%Y-%m")

    def posted(month: str) -> int:
        found = services[0].query(
            "SELECT posted_nano_usd FROM ai_budgets WHERE tenant_id = ? AND billing_period = ? AND scope = 'tenant'",
            str(tenant),
            month,
        )
        return int(found[0]["posted_nano_usd"]) // CEILING_NANO_USD if found else 0

    turn: list[float] = []

    def turn_of_the_month() -> None:
        eventually(lambda: posted(before) == held)
        time.sleep(0.2)
        turn.append(time.monotonic())
        for number, service in enumerate(services):
            # Their clocks differ a little, as clocks do.
            ahead_s = (next_month() - datetime.now(UTC)).total_seconds() - 0.2 - 0.15 * number
            service.shift_clocks(wall_s=ahead_s)
        # By then it is over for all of them.
        turn.append(time.monotonic() + 0.5)
        eventually(lambda: posted(after) == held)
        time.sleep(0.5)

    calls = numbered(tenant, key, start=FIRST)
    ports = [service.port for service in services]
    outcomes = uvloop.run(until(lambda: asyncio.to_thread(turn_of_the_month), ports, calls, callers=CALLERS))

    assert {outcome.status for outcome in outcomes} <= {200, 402}
    rows = services[0].rows(tenant_id=tenant)
    months = Counter(row["billing_period"] for row in rows)
    assert months == {before: held, after: held}
    assert all(row["admitted_at"][:7] == row["billing_period"] for row in rows)
    assert {posted(before), posted(after)} == {held}
    figures = measure(
        services[0],
        fake,
        tenant,
        outcomes,
        cap_nano_usd=2 * cap,
        false_402s=false_402s_of_each_month(outcomes, turn[0], turn[1], cap),
    )
    figures.check("month rollover under load (UTC)", recovered_s=first_served_s(outcomes, turn[1] - 0.5))


def false_402s_of_each_month(outcomes: list[Outcome], began_s: float, ended_s: float, cap: int) -> int:
    """Count those of the old month, and those of the new one; what was under way at its turn may count in both."""
    old = [
        each for each in outcomes if each.sent_s < began_s and not (each.status == 402 and each.answered_s > began_s)
    ]
    new = [
        each for each in outcomes if each.answered_s > began_s and not (each.status == 402 and each.sent_s < ended_s)
    ]
    found = [certainly_false_402s(part, lambda *_: cap, lambda _: CEILING_NANO_USD) for part in (old, new)]
    assert all(any(each.status == 402 for each in part) for part in (old, new)), "both caps were reached"
    return sum(found)


def test_clocks_that_jump_lose_nothing_and_double_nothing(services, fake):
    tenant, key = new_caller(services)
    fake.behave(Behaviour(delay_s=0.01))
    jumped: list[float] = []
    hour_s, day_s = 3600.0, 86400.0

    def jump() -> None:
        eventually(lambda: len(fake.receipts()) > 2 * CALLERS)
        for wall_s, monotonic_s in [
            (-hour_s, 0.0),
            (hour_s, 0.0),
            (-40 * day_s, 0.0),
            (40 * day_s, 0.0),
            (0.0, 0.0),
            # A machine that was suspended for longer than a lease; the monotonic clock of this process tells it so.
            (10 * LEASE_S, 10.0 * LEASE_S),
        ]:
            services[0].shift_clocks(wall_s=wall_s, monotonic_s=monotonic_s)
            jumped.append(time.monotonic())
            time.sleep(0.3)
        time.sleep(0.7)

    calls = numbered(tenant, key, is_idempotent=True)
    ports = [service.port for service in services]
    outcomes = uvloop.run(until(lambda: asyncio.to_thread(jump), ports, calls, callers=CALLERS))

    assert {outcome.status for outcome in outcomes} <= {200, 503}
    check_refusals(outcomes)
    eventually(lambda: not services[0].open_reservations())
    months = len({row["billing_period"] for row in services[0].rows(tenant_id=tenant)})
    assert months >= 3
    recovered_s = first_served_s(outcomes, jumped[-1])
    figures = measure(services[0], fake, tenant, outcomes)
    figures.check("clock jumps", recovered_s=recovered_s, months=months)
