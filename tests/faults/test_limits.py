"""Limits when things go wrong: a kill leaves no place taken, and one tenant's crowd is not felt by the others."""

import asyncio
from collections import Counter

import pytest
import uvloop

from harness import engines
from harness.load import Connection, Outcome, all_at_once, connect
from harness.reckoning import numbered_call
from harness.service import ADMIN_KEY, Service, TenantId, eventually, limits, model, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.usefixtures("on_each_engine")

AT_ONCE = 5
PER_S, BURST, SECONDS, ROUNDS = 10, 20, 10, 3
"""The limit of each tenant, and how long the nine and the crowd call."""
CROWD = 50


def test_calls_that_a_kill_left_take_no_place(fake, tmp_path):
    limited = limits(concurrent_calls=AT_ONCE) + f"[limits.key]\nconcurrent_calls = {AT_ONCE}\n"
    with serving(tmp_path, providers(fake) + model("m", "anthropic") + limited) as service:
        tenant, key = service.tenant(), service.new_key()["key"]
        fake.behave(Behaviour(hang=True))
        uvloop.run(killed_at_the_limit(service, fake, tenant, key))
        service.start()
        eventually(lambda: not service.open_reservations())
        fake.behave(Behaviour(delay_s=0.5))
        calls = [numbered_call(number, tenant, key) for number in range(AT_ONCE + 4)]
        assert told(uvloop.run(all_at_once(service.port, calls))) == {200: AT_ONCE, 429: 4}
        assert len(service.rows(tenant_id=tenant, status="unknown")) == AT_ONCE
        assert service.findings() == []


async def killed_at_the_limit(service: Service, fake: FakeProvider, tenant: TenantId, key: str) -> None:
    """Kill the service while as many calls run as may, once a further one has been refused."""
    calls = [numbered_call(number, tenant, key) for number in range(AT_ONCE + 1)]
    calling = asyncio.create_task(all_at_once(service.port, calls[:AT_ONCE]))
    async with asyncio.timeout(20):
        while len(fake.receipts()) < AT_ONCE:
            await asyncio.sleep(0.01)
    assert told(await all_at_once(service.port, calls[AT_ONCE:])) == {429: 1}
    service.kill()
    assert told(await calling) == {None: AT_ONCE}


def told(outcomes: list[Outcome]) -> dict[int | None, int]:
    return dict(Counter(outcome.status for outcome in outcomes))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tenant_at_50_times_its_limit_is_not_felt_by_nine_others(fake, tmp_path):
    fake.behave(Behaviour(delay_s=0.02))
    config = providers(fake) + model("m", "anthropic") + limits(requests_per_minute=60 * PER_S, burst=BURST)
    with serving(tmp_path, config) as service:
        nine, crowd = [service.tenant() for _ in range(9)], service.tenant()
        alone: list[list[Outcome]] = []
        beside: list[list[Outcome]] = []
        crowded: list[Outcome] = []
        for _ in range(ROUNDS):
            alone.append(uvloop.run(at_rate(service.port, nine, 9 * (PER_S - 1))))
            with_crowd, others = uvloop.run(both(service.port, nine, crowd))
            beside.append(with_crowd)
            crowded += others
        for each in (*alone, *beside):
            assert told(each) == {200: 9 * (PER_S - 1) * SECONDS}
        served = told(crowded)
        # Each round it may begin with a full bucket, and goes on by its rate, also while its last calls are answered.
        assert served[200] <= ROUNDS * (BURST + PER_S * (SECONDS + 2))
        assert served[200] >= ROUNDS * PER_S * SECONDS * 0.9, "and it does not get less than its limit either"
        assert set(served) == {200, 429}
        assert len(service.rows(tenant_id=crowd)) == served[200]
        print(
            f"\nFAULT {engines.current()} one tenant at {CROWD} times its limit of {PER_S}/s beside nine: "
            f"p50_alone_ms={by_round(alone, 50)} p50_beside_ms={by_round(beside, 50)} "
            f"p99_alone_ms={by_round(alone, 99)} p99_beside_ms={by_round(beside, 99)} "
            f"crowd_served={served[200]} crowd_refused={served[429]}"
        )


def by_round(rounds: list[list[Outcome]], percent: int) -> str:
    """Return a percentile of each round's answers in milliseconds."""
    return "/".join(f"{percentile_ms(each, percent):.0f}" for each in rounds)


async def both(port: int, nine: list[TenantId], crowd: TenantId) -> tuple[list[Outcome], list[Outcome]]:
    calls = at_rate(port, nine, 9 * (PER_S - 1)), at_rate(port, [crowd], CROWD * PER_S)
    return await asyncio.gather(*calls)


async def at_rate(port: int, tenants: list[TenantId], per_s: int) -> list[Outcome]:
    """Make calls of tenants in turn at a steady rate, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    running: list[asyncio.Task[Outcome]] = []

    async def call(number: int) -> Outcome:
        connection = free.pop() if free else await connect(port)
        outcome = await connection.call(number, numbered_call(number, tenants[number % len(tenants)], ADMIN_KEY))
        free.append(connection)
        return outcome

    began_s = loop.time()
    for number in range(per_s * SECONDS):
        await asyncio.sleep(max(began_s + number / per_s - loop.time(), 0))
        running.append(asyncio.create_task(call(number)))
    outcomes = await asyncio.gather(*running)
    for connection in free:
        connection.close()
    return outcomes


def percentile_ms(outcomes: list[Outcome], percent: int) -> float:
    taken = sorted(each.answered_s - each.sent_s for each in outcomes)
    return 1000 * taken[min(len(taken) * percent // 100, len(taken) - 1)]
