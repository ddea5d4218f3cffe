"""Thousands of calls at once at the edge of a budget, whose real costs are exactly their ceilings."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import count, islice

import pytest
import uvloop

from harness.calls import NANO, body_for, ceiling_nano_usd, most_input_tokens
from harness.faults import AT_MOST, Caps, measure, new_key, set_cap
from harness.load import Outcome, all_at_once, post, until
from harness.service import Service, TenantId, eventually
from tollhouse.testing import Behaviour, FakeProvider

BODY = body_for("edge", model="m", user_message="Call number 00000.", max_tokens=100)
CEILING_NANO_USD = ceiling_nano_usd(BODY, **AT_MOST)
# A provider that uses up all it was allowed makes each call cost its ceiling. It takes a while, so that calls queue up
# for the 100 connections there are to it.
GREEDY = Behaviour(input_tokens=most_input_tokens(BODY), use_full_max_tokens=True, delay_s=0.02)


@pytest.fixture
def fake(fake: FakeProvider) -> FakeProvider:
    fake.behave(GREEDY)
    return fake


def requests(tenant: TenantId, key: str) -> Iterator[bytes]:
    """Yield calls by one user each, of equal length and so of equal ceiling, without end."""
    for number in count():
        message = f"Call number {number:05}."
        yield post({**BODY, "tenant_id": tenant, "user_id": number, "user_message": message}, key)


def check(
    scenario: str,
    service: Service,
    fake: FakeProvider,
    tenant: TenantId,
    cap_nano_usd: int,
    outcomes: list[Outcome],
    seen: Sequence[Mapping[str, int]] = (),
    caps: Caps | None = None,
) -> int:
    """Hold the answers against receipts, rows and budget; return how many calls were served."""
    served = [outcome for outcome in outcomes if outcome.status == 200]
    receipts, rows, budget = fake.receipts(), service.rows(tenant_id=tenant), service.budget(tenant)
    billed = sum(receipt.input_tokens * 800 + receipt.output_tokens * 4000 for receipt in receipts)
    found = measure(
        service,
        fake,
        tenant,
        outcomes,
        cap_nano_usd=cap_nano_usd,
        fitting=min(cap_nano_usd // CEILING_NANO_USD, len(outcomes)),
        ceiling_of=lambda _: CEILING_NANO_USD,
        caps=caps,
        seen=seen,
    )
    highest = max((each["reserved_nano_usd"] for each in seen), default=0) // CEILING_NANO_USD
    found.check(scenario, cap=cap_nano_usd, posted=budget["posted_nano_usd"], looks=len(seen), reserved_at_once=highest)
    assert [outcome for outcome in outcomes if outcome.status not in {200, 402}] == []
    assert billed <= cap_nano_usd
    assert len(receipts) == len(served)
    assert sorted(row["request_id"] for row in rows) == sorted(outcome.json["request_id"] for outcome in served)
    assert {row["cost_nano_usd"] for row in rows} == {CEILING_NANO_USD}, "or this would not be the edge"
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (billed, 0)
    return len(served)


@contextlib.contextmanager
def watched(service: Service, tenant: TenantId) -> Iterator[list[dict[str, int]]]:
    """Read the budget again and again meanwhile; yields what was seen."""
    seen: list[dict[str, int]] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            seen.append(service.budget(tenant))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def at_the_edge(scenario: str, services: list[Service], fake: FakeProvider, count: int) -> None:
    """Make calls at once, of which half fit the cap, with all but one nano-USD of another."""
    service = services[0]
    tenant, cap = service.tenant(), count // 2 * CEILING_NANO_USD + CEILING_NANO_USD - 1
    set_cap(service, tenant, cap)
    calls = list(islice(requests(tenant, new_key(services)), count))

    with watched(service, tenant) as seen:
        outcomes = uvloop.run(all_at_once([each.port for each in services], calls))

    assert check(scenario, service, fake, tenant, cap, outcomes, seen) == cap // CEILING_NANO_USD == count // 2


def test_4000_calls_at_once_get_exactly_what_the_cap_holds(service, fake):
    at_the_edge("edge, 1 process", [service], fake, 4000)


@pytest.mark.engine("postgresql")
def test_so_they_do_from_4_processes(instances, fake):
    at_the_edge("edge, 4 processes", instances, fake, 4000)


@pytest.mark.slow
def test_10000_calls_at_once_get_exactly_what_the_cap_holds(service, fake):
    at_the_edge("edge, 10,000 calls, 1 process", [service], fake, 10_000)


@pytest.mark.slow
@pytest.mark.engine("postgresql")
def test_10000_calls_at_once_from_4_processes_get_exactly_what_the_cap_holds(instances, fake):
    at_the_edge("edge, 10,000 calls, 4 processes", instances, fake, 10_000)


def test_the_caps_of_user_feature_and_key_are_as_hard_as_the_tenants(service, instances, ports, fake):
    tenant, key = service.tenant(), service.new_key()
    for each in instances:
        eventually(lambda: each.complete({}, key=key["key"]).status == 422)  # noqa: B023
    held = {"user": 40, "feature": 70, "key": 100}
    for scope, scope_id in (("user", "7"), ("feature", "narrow")):
        path = f"/admin/tenants/{tenant}/budgets/{scope}/{scope_id}"
        service.request("PUT", path, f'{{"budget_usd": {Decimal(held[scope] * CEILING_NANO_USD) / NANO:f}}}'.encode())
    cap = f'{{"budget_usd": {Decimal(held["key"] * CEILING_NANO_USD) / NANO:f}}}'.encode()
    assert service.request("PUT", f"/admin/keys/{key['key_id']}/budget", cap).status == 200
    # A third each: one user on many features, many users on one feature, many users and features.
    kinds = [{"user_id": 7, "feature_slug": "a"}, {"user_id": 8, "feature_slug": "narrow"}, {}]
    calls = [post({**BODY, "tenant_id": tenant, **kinds[number % 3]}, key["key"]) for number in range(900)]

    outcomes = uvloop.run(all_at_once(ports, calls))

    served = [outcome for outcome in outcomes if outcome.status == 200]
    assert {outcome.status for outcome in outcomes} == {200, 402}
    assert len(served) == len(fake.receipts()) == held["key"]
    assert service.open_reservations() == []
    assert service.findings() == []
    spent = Counter((row["user_id"], row["feature_slug"]) for row in service.rows(tenant_id=tenant))
    assert spent["7", "a"] <= held["user"]
    assert spent["8", "narrow"] <= held["feature"]
    assert service.budget("", "key", key["key_id"])["posted_nano_usd"] == held["key"] * CEILING_NANO_USD


def test_a_cap_that_is_lowered_and_raised_under_load_holds_at_each_moment(service, instances, ports, fake):
    tenant, key = service.tenant(), new_key(instances)
    caps = Caps(service, tenant)
    caps.set(50 * CEILING_NANO_USD)
    served_under_lowered: list[int] = []

    def served() -> int:
        return int(service.budget(tenant)["posted_nano_usd"]) // CEILING_NANO_USD

    def change() -> None:
        eventually(lambda: served() == 50)
        caps.set(300 * CEILING_NANO_USD)
        eventually(lambda: served() >= 120)
        # In the midst of it, to below what is spent already.
        caps.set(100 * CEILING_NANO_USD)
        eventually(lambda: service.budget(tenant)["reserved_nano_usd"] == 0)
        served_under_lowered.append(served())
        time.sleep(0.2)
        served_under_lowered.append(served())
        caps.set(400 * CEILING_NANO_USD)
        eventually(lambda: served() == 400)
        time.sleep(0.2)

    endless = enumerate(requests(tenant, key))
    with watched(service, tenant) as seen:
        outcomes = uvloop.run(until(lambda: asyncio.to_thread(change), ports, endless, callers=20))

    assert check("cap raised and lowered", service, fake, tenant, 400 * CEILING_NANO_USD, outcomes, seen, caps) == 400
    assert 120 <= served_under_lowered[0] <= 300
    assert served_under_lowered[0] == served_under_lowered[1]
    highest = max(budget["cap_nano_usd"] for budget in seen)
    assert all(budget["posted_nano_usd"] + budget["reserved_nano_usd"] <= highest for budget in seen)
