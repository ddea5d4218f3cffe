"""Limits when things go wrong: a kill leaves no place taken, and one tenant's crowd is not felt by the others."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import uvloop

from harness import engines
from harness.load import Outcome, all_at_once
from harness.reckoning import numbered_call
from harness.service import ADMIN_KEY, Service, TenantId, eventually, limits, model, provider, providers, serving
from harness.steady import Answered, Load, percentile, steady_loads, together
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.usefixtures("on_each_engine")

AT_ONCE = 5
BURST, CROWD = 20, 50


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


@pytest.fixture
def slow_provider_url() -> Iterator[str]:
    """Where a provider answers after 20 ms, in a process that does nothing else."""
    command = [sys.executable, "-m", "tollhouse.testing", "--delay-ms", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("per_minute", "rounds", "seconds"), [(100, 5, 30), (600, 8, 10)], ids=["default", "600"])
def test_a_tenant_at_50_times_its_limit_is_not_felt_by_nine_others(
    slow_provider_url, tmp_path, per_minute, rounds, seconds
):
    config = (
        provider("anthropic", "anthropic", slow_provider_url)
        + model("m", "anthropic")
        + limits(requests_per_minute=per_minute, burst=BURST)
    )
    per_s = per_minute / 60
    with serving(tmp_path, config) as service:
        nine, crowd = [service.tenant() for _ in range(9)], service.tenant()
        of_nine, of_crowd = Load(nine, 0.9 * 9 * per_s), Load([crowd], CROWD * per_s)
        alone: list[Answered] = []
        beside: list[Answered] = []
        served = refused = 0
        for _ in range(rounds):
            alone += asyncio.run(steady_loads(service.port, ADMIN_KEY, seconds, of_nine))
            with_crowd, crowded = asyncio.run(steady_loads(service.port, ADMIN_KEY, seconds, of_nine, of_crowd))
            beside.append(with_crowd)
            assert set(crowded.statuses) == {200, 429}
            served += crowded.statuses[200]
            refused += crowded.statuses[429]
        for each in (*alone, *beside):
            assert each.statuses == {200: round(of_nine.per_s * seconds)}
        # Each round it may begin with a full bucket, and goes on by its rate, also while its last calls are answered.
        assert served <= rounds * (BURST + per_s * (seconds + 2))
        assert served >= rounds * per_s * seconds * 0.9, "and it does not get less than its limit either"
        assert len(service.rows(tenant_id=crowd)) == served
        print(
            f"\nFAULT {engines.current()} one tenant at {CROWD} times its limit of {per_minute} a minute beside nine: "
            f"alone {figures(alone)} beside {figures(beside)} crowd_served={served} crowd_refused={refused}"
        )


def figures(rounds: list[Answered]) -> str:
    """Return how long the calls of all rounds took, in milliseconds: all of them, and those that nothing disturbed."""
    by_round = "/".join(f"{percentile(each.taken_ms, 99):.0f}" for each in rounds)
    whole = together(rounds)
    return f"{spread(whole.taken_ms)} ({by_round}) undisturbed {spread(whole.undisturbed_ms)}"


def spread(taken_ms: Sequence[float]) -> str:
    return f"calls={len(taken_ms)} p50_ms={percentile(taken_ms, 50):.1f} p99_ms={percentile(taken_ms, 99):.1f}"
