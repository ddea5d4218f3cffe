"""Shares of caps that are told of: once each, in the transaction that spends them, and on both engines alike."""

import asyncio
import json
from datetime import datetime

import pytest

from harness.books import THRESHOLDS, run_on_books, run_on_two, settlement
from harness.clock import FakeClock
from tollhouse.budgets import store
from tollhouse.budgets.model import Budget
from tollhouse.budgets.thresholds import EVENT_TYPE, Thresholds
from tollhouse.errors import InternalError
from tollhouse.events import store as events
from tollhouse.events.model import Selection
from tollhouse.events.order import place_all
from tollhouse.kit.clock import epoch_ms, utc_text

CAP = 1000


async def told(books):
    """Return all events, in their order."""
    await place_all(books.database)
    everything = Selection(has_untenanted=True)
    return await books.database.read(lambda connection: events.following(connection, everything, after=0, limit=500))


async def percents(books, scope="tenant"):
    data = [json.loads(event.data) for event in await told(books)]
    return [each["threshold_percent"] for each in data if each["scope"] == scope]


async def spend(books, cost, **changes):
    await books.ledger.settle(settlement(await books.reserve(cost, **changes), cost))


async def change_cap(books, cap, scope="tenant", scope_id=""):
    """Change a cap as administrators do, and tell of what that makes of the share that is spent."""
    key = books.key(scope, scope_id)

    def work(connection):
        if scope == "tenant":
            store.set_tenant_cap(connection, key.tenant_id, key.billing_period, cap)
        else:
            store.set_standing_cap(connection, key, cap, utc_text(books.clock.now_ms()))
        owners = [(key.tenant_id, key.scope_id)]
        store.tell_thresholds(connection, THRESHOLDS, key.billing_period, scope, owners, books.clock.now_ms())

    await books.database.write(work)


@pytest.mark.parametrize(
    ("spent", "cap", "passed"),
    [
        (0, 1000, 0),
        (499, 1000, 0),
        (500, 1000, 50),
        (799, 1000, 50),
        (1000, 1000, 100),
        (1001, 1000, 100),
        # Whole numbers, however large: as floats these two would be the same.
        (500_000_000_000_000_000, 10**18, 50),
        (499_999_999_999_999_999, 10**18, 0),
        (0, 0, 0),
        (1, 0, 100),
    ],
)
def test_a_share_is_passed_once_that_much_is_spent(spent, cap, passed):
    assert THRESHOLDS.passed(Budget(cap, spent, 0)) == passed
    assert Thresholds().passed(Budget(cap, spent, 0)) == 0


def test_each_share_is_told_once_by_the_settlement_that_passes_it(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        seen = []
        for cost in (499, 1, 100, 200, 50, 50, 50, 50):
            await spend(books, cost)
            seen.append(await percents(books))
        assert seen == [[], [50], [50], [50, 80], [50, 80], [50, 80, 90], [50, 80, 90], [50, 80, 90, 100]]

    run_on_books(tmp_path, scenario)


def test_the_event_says_whose_cap_it_is_and_how_much_is_spent(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=10**10)
        await books.set_cap("user", "u", 4 * 10**9)
        await books.set_cap("key", "k", 5 * 10**9)
        await books.reserve(10**8)
        await spend(books, 3_333_333_337)
        by_scope = {json.loads(event.data)["scope"]: event for event in await told(books)}
        assert {scope: (event.tenant_id, event.user_id, event.subject) for scope, event in by_scope.items()} == {
            "user": ("42", "u", "user:u"),
            "key": ("", "", "key:k"),
        }
        event = by_scope["user"]
        assert (event.type, event.created_at) == (EVENT_TYPE, "2026-04-10T12:00:00.000Z")
        assert event.event_id[:16] == f"evt_{books.clock.now_ms():012x}"
        assert len(event.event_id) == len("evt_") + 28
        # What is reserved for calls under way is not spent.
        assert json.loads(event.data) == {
            "billing_period": "2026-04",
            "scope": "user",
            "scope_id": "u",
            "threshold_percent": 80,
            "pct_used": 83.3,
            "budget_usd": 4,
            "spent_usd": 3.333333337,
        }

    run_on_books(tmp_path, scenario)


def test_a_settlement_that_passes_several_shares_tells_each_in_their_order(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await books.set_cap("feature", "f", 700)
        await spend(books, 650)
        assert await percents(books) == [50]
        assert await percents(books, "feature") == [50, 80, 90]

    run_on_books(tmp_path, scenario)


def test_many_settlements_at_once_tell_each_share_once(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        made = [await books.reserve(10) for _ in range(100)]
        await asyncio.gather(*(books.ledger.settle(settlement(each, 10)) for each in made))
        assert await percents(books) == [50, 80, 90, 100]

    run_on_books(tmp_path, scenario)


@pytest.mark.engine("postgresql")
def test_settlements_of_several_instances_at_once_tell_each_share_once(tmp_path):
    async def scenario(one, other):
        await one.set_tenant(cap=CAP)
        both = [(books, await books.reserve(10)) for books in (one, other) for _ in range(50)]
        await asyncio.gather(*(books.ledger.settle(settlement(made, 10)) for books, made in both))
        assert await percents(one) == [50, 80, 90, 100]

    run_on_two(tmp_path, scenario)


def test_what_is_not_settled_is_not_told(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        made = await books.reserve(600)
        held = await books.reserve(300)
        await books.ledger.hold(held, 1)
        assert await percents(books) == []
        await books.ledger.settle(settlement(made, 600))
        assert await percents(books) == [50]
        # A settlement that is refused takes its event along.
        with pytest.raises(InternalError):
            await books.ledger.settle(settlement(made, 400))
        assert await percents(books) == [50]

    run_on_books(tmp_path, scenario)


def test_what_is_given_back_tells_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await spend(books, 600)
        before = await told(books)
        await books.ledger.release(await books.reserve(400))
        assert await told(books) == before

    run_on_books(tmp_path, scenario)


def test_an_unknown_outcome_is_told_of_once_it_is_resolved(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        made = await books.reserve(900)
        await books.ledger.hold(made, 1)
        assert await percents(books) == []
        await books.ledger.settle(settlement(made, 850, status="adjustment"))
        assert await percents(books) == [50, 80]

    run_on_books(tmp_path, scenario)


def test_a_new_month_begins_anew(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await spend(books, 600)
        books.clock.advance(30 * 86_400)
        await spend(books, 600)
        data = [json.loads(event.data) for event in await told(books)]
        assert [(each["billing_period"], each["threshold_percent"]) for each in data] == [
            ("2026-04", 50),
            ("2026-05", 50),
        ]

    run_on_books(tmp_path, scenario, clock=FakeClock())


def test_a_lower_cap_tells_at_once_what_is_spent_of_it(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await spend(books, 600)
        await change_cap(books, 700)
        assert await percents(books) == [50, 80]
        assert json.loads((await told(books))[-1].data)["budget_usd"] == 7e-7
        await spend(books, 40)
        assert await percents(books) == [50, 80, 90]
        await change_cap(books, 500)
        assert await percents(books) == [50, 80, 90, 100]

    run_on_books(tmp_path, scenario)


def test_a_raised_cap_is_told_of_again_once_that_much_of_it_is_spent(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await spend(books, 850)
        assert await percents(books) == [50, 80]
        await change_cap(books, 2000)
        await change_cap(books, 2000)
        assert await percents(books) == [50, 80]
        await spend(books, 150)
        assert await percents(books) == [50, 80, 50]
        await spend(books, 600)
        assert await percents(books) == [50, 80, 50, 80]

    run_on_books(tmp_path, scenario)


def test_a_cap_that_is_set_in_the_middle_of_a_month_tells_what_is_spent_of_it(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        await spend(books, 85)
        await change_cap(books, 100, "user", "u")
        assert await percents(books, "user") == [50, 80]
        assert await percents(books) == []
        await spend(books, 10)
        assert await percents(books, "user") == [50, 80, 90]

    run_on_books(tmp_path, scenario)


def test_a_cap_of_nothing_is_used_up_by_anything(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        made, free = await books.reserve(10), await books.reserve(0)
        await change_cap(books, 0)
        await books.ledger.settle(settlement(free, 0))
        assert await percents(books) == []
        await books.ledger.settle(settlement(made, 10))
        assert await percents(books) == [50, 80, 90, 100]
        assert json.loads((await told(books))[0].data)["pct_used"] == 100.0

    run_on_books(tmp_path, scenario)


def test_the_largest_caps_are_told_of_to_the_nano(tmp_path):
    async def scenario(books):
        largest = 10**18
        await books.set_tenant(cap=largest)
        await spend(books, largest // 2 - 1)
        assert await percents(books) == []
        await spend(books, 1)
        assert await percents(books) == [50]

    run_on_books(tmp_path, scenario)


def test_the_time_of_an_event_is_the_settlements(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=CAP)
        made = await books.reserve(600)
        at = "2026-04-10T12:00:07.250Z"
        await books.ledger.settle(settlement(made, 600, created_at=at))
        (event,) = await told(books)
        assert event.created_at == at
        assert event.event_id[4:16] == f"{epoch_ms(datetime.fromisoformat(at)):012x}"

    run_on_books(tmp_path, scenario)
