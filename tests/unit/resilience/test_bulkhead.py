"""Places at a provider: who gets one, who waits, and for how long."""

import asyncio

import pytest

from tollhouse.resilience.bulkhead import Bulkhead


def run(scenario):
    asyncio.run(scenario())


def soon():
    return asyncio.get_running_loop().time() + 30


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def test_as_many_calls_as_there_are_places_go_at_once_and_the_next_waits_its_turn():
    async def scenario():
        bulkhead = Bulkhead(limit=2, tenant_limit=None, max_waiting=10, max_wait_s=30)
        assert bulkhead.try_enter("a")
        assert bulkhead.try_enter("b")
        assert not bulkhead.try_enter("c")
        order = []

        async def wait(tenant):
            assert await bulkhead.enter(tenant, soon())
            order.append(tenant)

        tasks = [asyncio.create_task(wait(tenant)) for tenant in "cd"]
        await turns()
        assert (bulkhead.under_way, bulkhead.waiting, order) == (2, 2, [])
        bulkhead.leave("a")
        # Whoever comes now does not overtake those who wait.
        assert not bulkhead.try_enter("e")
        await turns()
        assert order == ["c"]
        bulkhead.leave("b")
        await asyncio.gather(*tasks)
        assert order == ["c", "d"]
        bulkhead.leave("c")
        bulkhead.leave("d")
        assert (bulkhead.under_way, bulkhead.waiting) == (0, 0)
        assert bulkhead.try_enter("e")

    run(scenario)


def test_a_tenant_has_its_own_places_and_leaves_the_others_theirs():
    async def scenario():
        bulkhead = Bulkhead(limit=10, tenant_limit=2, max_waiting=1, max_wait_s=30)
        assert bulkhead.try_enter("noisy")
        assert bulkhead.try_enter("noisy")
        assert not bulkhead.try_enter("noisy")
        waiting = asyncio.create_task(bulkhead.enter("noisy", soon()))
        await turns()
        # One may wait; the next is refused at once.
        assert not await bulkhead.enter("noisy", soon())
        assert bulkhead.try_enter("quiet")
        assert bulkhead.under_way == 3
        bulkhead.leave("noisy")
        assert await waiting
        for tenant in ("noisy", "noisy", "quiet"):
            bulkhead.leave(tenant)
        assert bulkhead.under_way == 0
        assert not bulkhead._tenants, "nobody is remembered who has no call"

    run(scenario)


@pytest.mark.parametrize(("max_wait_s", "deadline_in_s"), [(0.01, 30), (30, 0.01), (30, -1)])
def test_nobody_waits_beyond_the_longest_wait_or_the_calls_deadline(max_wait_s, deadline_in_s):
    async def scenario():
        bulkhead = Bulkhead(limit=1, tenant_limit=5, max_waiting=10, max_wait_s=max_wait_s)
        assert bulkhead.try_enter("a")
        assert not await bulkhead.enter("b", asyncio.get_running_loop().time() + deadline_in_s)
        assert (bulkhead.under_way, bulkhead.waiting, bulkhead.refused) == (1, 0, 1)
        bulkhead.leave("a")
        assert bulkhead.under_way == 0
        assert bulkhead.try_enter("b")

    run(scenario)


@pytest.mark.parametrize("is_given", [False, True], ids=["waiting", "as the place comes"])
def test_a_call_that_is_cancelled_leaves_its_place_to_others(is_given):
    async def scenario():
        bulkhead = Bulkhead(limit=1, tenant_limit=1, max_waiting=10, max_wait_s=30)
        assert bulkhead.try_enter("a")
        waiting = asyncio.create_task(bulkhead.enter("b", soon()))
        await turns()
        if is_given:
            bulkhead.leave("a")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not is_given:
            bulkhead.leave("a")
        assert (bulkhead.under_way, bulkhead.waiting) == (0, 0)
        assert bulkhead.try_enter("b")

    run(scenario)


def test_thousands_of_calls_never_exceed_the_places_and_all_have_their_turn():
    async def scenario():
        bulkhead = Bulkhead(limit=7, tenant_limit=3, max_waiting=10_000, max_wait_s=30)
        under_way = {"all": 0, "most": 0}
        of_tenant = dict.fromkeys("abcd", 0)

        async def call(tenant):
            assert bulkhead.try_enter(tenant) or await bulkhead.enter(tenant, soon())
            under_way["all"] += 1
            of_tenant[tenant] += 1
            under_way["most"] = max(under_way["most"], under_way["all"])
            assert of_tenant[tenant] <= 3
            await asyncio.sleep(0)
            under_way["all"] -= 1
            of_tenant[tenant] -= 1
            bulkhead.leave(tenant)

        await asyncio.gather(*(call("abcd"[number % 4]) for number in range(2000)))
        assert under_way == {"all": 0, "most": 7}
        assert (bulkhead.under_way, bulkhead.waiting) == (0, 0)

    run(scenario)
