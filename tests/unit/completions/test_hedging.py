"""A second attempt beside a slow first one: both are reserved and entered, and one answers."""

import asyncio

import pytest

from harness.books import run_on_books
from harness.providers import Desk, Held, Provider, answer, lost
from tollhouse.completions.hedging import Hedging
from tollhouse.errors import Unavailable
from tollhouse.resilience.bulkhead import Bulkhead
from tollhouse.resilience.latency import LatencyQuantile

pytestmark = pytest.mark.usefixtures("on_each_engine")

CAP = 10_000_000
COST = 15_000


def run(tmp_path, scenario, *steps, cap=CAP, max_nano_usd=CAP):
    async def on_books(books):
        await books.set_tenant(cap=cap)
        latency = LatencyQuantile(0.95)
        for _ in range(100):
            latency.add(0.005)
        bulkhead = Bulkhead(limit=10, tenant_limit=None)
        desk = Desk(books, {"small": Provider(*steps)}, changes={"small": {"latency": latency, "bulkhead": bulkhead}})
        desk.pipeline._hedging = Hedging(max_nano_usd)
        desk.pipeline._hedging._credit = 5.0
        await scenario(desk)
        await desk.pipeline.background.finish(5.0)
        assert bulkhead.under_way == 0

    run_on_books(tmp_path, on_books)


async def rows(desk):
    return sorted((row.attempt, row.status, row.cost_nano_usd) for row in await desk.books.rows())


def test_the_sooner_answer_is_told_and_the_slower_attempt_is_settled_too(tmp_path):
    slow = Held(answer("late"))

    async def scenario(desk):
        served = await desk.complete(key="order-7")
        assert b'"content":"soon"' in served.body
        assert set((await desk.books.reservations()).values()) == {"open"}, "the first is still under way, and reserved"
        slow.let_go.set()
        await desk.pipeline.background.finish(5.0)
        assert await rows(desk) == [(1, "settled", COST), (2, "settled", COST)]
        assert await desk.books.budget() == (CAP, 2 * COST, 0)
        again = await desk.complete(key="order-7")
        assert (again.replayed, again.body) == (True, served.body)
        assert desk.called == ["small", "small"]

    run(tmp_path, scenario, slow, answer("soon"))


def test_both_ceilings_have_to_fit_the_cap(tmp_path):
    slow = Held(answer("late"))

    async def scenario(desk):
        call = desk.plan(key="order-7")
        await desk.books.set_tenant(cap=call.ceiling_nano_usd + 1)
        serving = asyncio.create_task(desk.pipeline.complete(call))
        await slow.reached.wait()
        await asyncio.sleep(0.1)
        slow.let_go.set()
        assert b"late" in (await serving).body
        assert desk.called == ["small"]
        assert await rows(desk) == [(1, "settled", COST)]

    run(tmp_path, scenario, slow, answer("soon"))


def test_of_two_that_are_lost_both_are_held_and_the_key_makes_no_further_call(tmp_path):
    slow = Held(lost())

    async def both_lost():
        slow.let_go.set()
        raise lost()

    async def scenario(desk):
        with pytest.raises(Unavailable):
            await desk.complete(key="order-7")
        assert [(attempt, status) for attempt, status, _ in await rows(desk)] == [(1, "unknown"), (2, "unknown")]
        with pytest.raises(Exception, match="new"):
            await desk.complete(key="order-7")
        assert desk.called == ["small", "small"]

    run(tmp_path, scenario, slow, both_lost)


@pytest.mark.parametrize("how", ["fast", "without a key", "dear"])
def test_a_call_that_is_fast_has_no_key_or_is_dear_is_begun_once(tmp_path, how):
    async def slowly():
        await asyncio.sleep(0 if how == "fast" else 0.05)
        return answer()

    async def scenario(desk):
        await desk.complete(key=None if how == "without a key" else "order-7")
        assert desk.called == ["small"]

    run(tmp_path, scenario, slowly, max_nano_usd=10 if how == "dear" else CAP)
