"""Caps as administrators set them, and what then counts against them."""

import pytest

from harness.books import reservation, run_on_books, settlement
from harness.clock import FakeClock
from tollhouse.budgets import store
from tollhouse.budgets.model import Budget, BudgetKey
from tollhouse.errors import BudgetExceeded


def test_a_cap_counts_what_was_spent_and_reserved_earlier_in_the_month(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        spent, held = await books.reserve(100), await books.reserve(200)
        await books.reserve(400, user_id="somebody else", feature_slug="g", key_id="l")
        await books.ledger.settle(settlement(spent, 30))
        await books.ledger.hold(held, 1)
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            await books.set_cap(scope, scope_id, 1000)
            assert await books.budget(scope, scope_id) == (1000, 30, 200)

    run_on_books(tmp_path, scenario)


def test_a_keys_cap_counts_all_tenants_together(tmp_path):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id)
            await books.reserve(100, tenant_id=tenant_id)
        await books.set_cap("key", "k", 250)
        with pytest.raises(BudgetExceeded, match="service key k has"):
            await books.reserve(51, tenant_id="42")
        await books.reserve(50, tenant_id="43")
        assert await books.budget("key", "k") == (250, 0, 250)

    run_on_books(tmp_path, scenario)


def test_a_users_or_features_cap_holds_for_one_tenant_alone(tmp_path):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id)
        await books.set_cap("user", "u", 10, tenant_id="42")
        await books.set_cap("feature", "f", 10, tenant_id="42")
        await books.reserve(100, tenant_id="43")
        with pytest.raises(BudgetExceeded):
            await books.reserve(11, tenant_id="42")

    run_on_books(tmp_path, scenario)


def test_a_cap_is_changed_in_place(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.set_cap("user", "u", 300)
        await books.reserve(200)
        await books.set_cap("user", "u", 150)
        assert await books.budget("user", "u") == (150, 0, 200)
        with pytest.raises(BudgetExceeded, match=r"has \$0 left of its \$0\.00000015 "):
            await books.reserve(1)

    run_on_books(tmp_path, scenario)


def test_a_lifted_cap_is_gone_and_counts_anew_when_it_is_set_again(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.set_cap("user", "u", 100)
        first = await books.reserve(100)
        assert await books.lift_cap("user", "u")
        assert not await books.lift_cap("user", "u")
        second = await books.reserve(500)
        await books.ledger.settle(settlement(first, 40))
        await books.set_cap("user", "u", 1000)
        assert await books.budget("user", "u") == (1000, 40, 500)
        await books.ledger.release(second)
        assert await books.budget("user", "u") == (1000, 40, 0)

    run_on_books(tmp_path, scenario)


def test_a_standing_cap_holds_in_the_months_after(tmp_path):
    clock = FakeClock()

    async def scenario(books):
        await books.set_tenant()
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            await books.set_cap(scope, scope_id, 100)
        await books.reserve(100)
        clock.set("2026-05-01T00:00:00Z")
        await books.reserve(60)
        with pytest.raises(BudgetExceeded):
            await books.reserve(41)
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            assert await books.budget(scope, scope_id) == (100, 0, 60)

    run_on_books(tmp_path, scenario, clock=clock)


@pytest.mark.parametrize(("scope", "scope_id"), [("user", "u"), ("feature", "f"), ("key", "k")])
def test_a_standing_cap_holds_in_a_month_that_begins_with_a_change_of_the_tenants_cap(tmp_path, scope, scope_id):
    clock = FakeClock()

    async def scenario(books):
        await books.set_tenant()
        await books.set_cap(scope, scope_id, 50)
        clock.set("2026-05-01T00:00:00Z")
        await books.set_tenant(cap=20_000)
        with pytest.raises(BudgetExceeded):
            await books.reserve(51)
        await books.reserve(50)
        assert await books.budget(scope, scope_id) == (50, 0, 50)

    run_on_books(tmp_path, scenario, clock=clock)


def test_a_standing_cap_set_before_the_months_first_call_holds_in_it(tmp_path):
    clock = FakeClock()

    async def scenario(books):
        await books.set_tenant()
        await books.set_cap("user", "v", 70)
        clock.set("2026-05-01T00:00:00Z")
        await books.set_cap("user", "u", 50)
        with pytest.raises(BudgetExceeded):
            await books.reserve(51, user_id="u")
        with pytest.raises(BudgetExceeded):
            await books.reserve(71, user_id="v")
        await books.reserve(200, user_id="w")

    run_on_books(tmp_path, scenario, clock=clock)


def test_last_months_caps_are_left_alone(tmp_path):
    clock = FakeClock()

    async def scenario(books):
        await books.set_tenant(cap=100)
        await books.set_cap("user", "u", 100)
        late = await books.reserve(100)
        clock.set("2026-05-01T00:00:00Z")
        await books.set_tenant(cap=5)
        await books.set_cap("user", "u", 5)
        await books.lift_cap("user", "u")
        await books.ledger.settle(settlement(late, 90, created_at="2026-05-01T00:00:00.000Z"))
        april = BudgetKey("42", "2026-04", "tenant", ""), BudgetKey("42", "2026-04", "user", "u")
        budgets = await books.budgets()
        assert [budgets[key] for key in april] == [(100, 90, 0)] * 2
        assert await books.budget() == (5, 0, 0)

    run_on_books(tmp_path, scenario, clock=clock)


def test_the_caps_of_many_tenants_are_set_where_their_month_has_begun(tmp_path):
    async def scenario(books):
        await books.set_tenant("42", cap=100)
        await books.set_tenant("43", cap=100)
        await books.database.write(
            lambda connection: store.set_tenant_caps(connection, ["42", "unheard of"], "2026-04", 70)
        )
        await books.database.write(lambda connection: store.set_tenant_caps(connection, [], "2026-04", 1))
        assert {key.tenant_id: budget[0] for key, budget in (await books.budgets()).items()} == {"42": 70, "43": 100}

    run_on_books(tmp_path, scenario)


def test_caps_and_budgets_are_read_back(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        await books.set_tenant("43", cap=100)
        await books.set_cap("user", "u", 10)
        await books.set_cap("key", "k", 20)
        own, user, key = books.key(), books.key("user", "u"), books.key("key", "k")

        def look(connection):
            assert store.budgets(connection, "2026-04", "42") == {own: Budget(100, 0, 0), user: Budget(10, 0, 0)}
            assert len(store.budgets(connection, "2026-04", None)) == 4
            assert store.budgets(connection, "2026-05", None) == {}
            assert store.standing_caps(connection, "42", "2026-05") == {user._replace(billing_period="2026-05"): 10}
            assert store.standing_caps(connection, "", "2026-04") == {key: 20}
            assert store.standing_cap(connection, user) == 10
            assert store.standing_cap(connection, books.key("user", "v")) is None

        await books.database.read(look)

    run_on_books(tmp_path, scenario)


def test_reservations_of_attempts_under_way_are_found_with_all_that_the_ledger_needs(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first, held, second = [await books.reserve(100 + number) for number in range(3)]
        await books.ledger.hold(held, 1)
        assert await books.database.read(store.open_reservations) == [first, second]

    run_on_books(tmp_path, scenario)


def test_a_cap_holds_in_months_that_a_clock_running_ahead_has_opened_already(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        books.clock.set("2026-06-10T12:00:00Z")
        early = await books.reserve(100)
        books.clock.set("2026-04-10T12:00:00Z")
        await books.set_tenant(cap=500)
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            await books.set_cap(scope, scope_id, 150)
        books.clock.set("2026-06-10T12:00:00Z")
        assert await books.budget() == (500, 0, 100)
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            assert await books.budget(scope, scope_id) == (150, 0, 100)
        with pytest.raises(BudgetExceeded):
            await books.reserve(51)
        await books.ledger.settle(settlement(early, 60))
        books.clock.set("2026-04-10T12:00:00Z")
        for scope, scope_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            assert await books.lift_cap(scope, scope_id)
        books.clock.set("2026-06-10T12:00:00Z")
        await books.reserve(440)

    run_on_books(tmp_path, scenario)


APRIL, MAY, JUNE = "2026-04-10T12:00:00Z", "2026-05-10T12:00:00Z", "2026-06-10T12:00:00Z"


async def months_of(books, scope, tenant_id="42"):
    """Return cap, posted and reserved of a scope's budgets by month."""
    found = (await books.budgets()).items()
    return {key.billing_period: budget for key, budget in found if (key.scope, key.tenant_id) == (scope, tenant_id)}


@pytest.mark.parametrize("cap", [300, 3000], ids=["lowered", "raised"])
def test_a_changed_cap_of_a_tenant_holds_from_the_running_month_on_and_keeps_all_counts(tmp_path, cap):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id, cap=1000)
        await books.ledger.settle(settlement(await books.reserve(100), 70))
        books.clock.set(JUNE)
        await books.reserve(200)
        await books.reserve(200, tenant_id="43")
        books.clock.set(APRIL)
        await books.set_tenant(cap=cap)
        assert await months_of(books, "tenant") == {"2026-04": (cap, 70, 0), "2026-06": (cap, 0, 200)}
        assert await months_of(books, "tenant", "43") == {"2026-04": (1000, 0, 0), "2026-06": (1000, 0, 200)}
        for month, left in ((APRIL, cap - 70), (MAY, cap), (JUNE, cap - 200)):
            books.clock.set(month)
            with pytest.raises(BudgetExceeded):
                await books.reserve(left + 1)
            await books.reserve(left)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(("scope", "scope_id"), [("user", "u"), ("feature", "f"), ("key", "k")])
@pytest.mark.parametrize("cap", [70, 500], ids=["lowered", "raised"])
def test_a_changed_standing_cap_holds_from_the_running_month_on_and_keeps_all_counts(tmp_path, scope, scope_id, cap):
    async def scenario(books):
        await books.set_tenant()
        await books.set_cap(scope, scope_id, 100)
        await books.reserve(40)
        books.clock.set(JUNE)
        await books.reserve(60)
        books.clock.set(APRIL)
        await books.set_cap(scope, scope_id, cap)
        tenant_id = books.key(scope, scope_id).tenant_id
        assert await months_of(books, scope, tenant_id) == {"2026-04": (cap, 0, 40), "2026-06": (cap, 0, 60)}
        assert {budget[0] for budget in (await months_of(books, "tenant")).values()} == {10_000}
        for month, left in ((APRIL, cap - 40), (MAY, cap), (JUNE, cap - 60)):
            books.clock.set(month)
            with pytest.raises(BudgetExceeded):
                await books.reserve(left + 1)
            await books.reserve(left)

    run_on_books(tmp_path, scenario)


def test_a_new_cap_is_set_in_the_later_months_of_those_alone_who_count_against_it(tmp_path):
    async def scenario(books):
        for tenant_id, month, ceiling in (("42", JUNE, 60), ("43", MAY, 30), ("44", JUNE, 5)):
            books.clock.set(month)
            await books.set_tenant(tenant_id)
            await books.reserve(ceiling, tenant_id=tenant_id)
        books.clock.set(APRIL)
        await books.set_cap("user", "u", 100)
        await books.set_cap("key", "k", 100)
        assert await months_of(books, "user") == {"2026-04": (100, 0, 0), "2026-06": (100, 0, 60)}
        assert await months_of(books, "user", "43") == {}
        assert await months_of(books, "key", "") == {
            "2026-04": (100, 0, 0),
            "2026-05": (100, 0, 30),
            "2026-06": (100, 0, 65),
        }

    run_on_books(tmp_path, scenario)


def test_a_month_that_begins_with_a_change_of_the_tenants_cap_begins_beside_later_ones(tmp_path):
    clock = FakeClock("2026-03-10T12:00:00Z")

    async def scenario(books):
        await books.set_tenant(cap=1000)
        await books.set_cap("user", "u", 80)
        books.clock.set(JUNE)
        await books.reserve(20)
        books.clock.set(APRIL)
        await books.set_tenant(cap=500)
        march, april, june = (1000, 0, 0), (500, 0, 0), (500, 0, 20)
        assert await months_of(books, "tenant") == {"2026-03": march, "2026-04": april, "2026-06": june}
        assert await months_of(books, "user") == {"2026-03": (80, 0, 0), "2026-04": (80, 0, 0), "2026-06": (80, 0, 20)}

    run_on_books(tmp_path, scenario, clock=clock)


@pytest.mark.parametrize("cap", [70, 7000], ids=["lowered", "raised"])
def test_the_caps_of_many_tenants_are_set_from_the_running_month_on(tmp_path, cap):
    clock = FakeClock("2026-03-10T12:00:00Z")

    async def scenario(books):
        for month in ("2026-03-10T12:00:00Z", JUNE, APRIL):
            books.clock.set(month)
            for tenant_id in ("42", "43", "44"):
                await books.set_tenant(tenant_id, cap=1000)
        await books.reserve(40)
        await books.set_cap("user", "u", 90)
        await books.database.write(lambda connection: store.set_tenant_caps(connection, ["42", "43"], "2026-04", cap))
        for tenant_id, reserved in (("42", 40), ("43", 0)):
            months = {"2026-03": (1000, 0, 0), "2026-04": (cap, 0, reserved), "2026-06": (cap, 0, 0)}
            assert await months_of(books, "tenant", tenant_id) == months
        assert {budget[0] for budget in (await months_of(books, "tenant", "44")).values()} == {1000}
        assert {budget[0] for budget in (await months_of(books, "user")).values()} == {90}

    run_on_books(tmp_path, scenario, clock=clock)


def test_a_key_cap_set_just_after_a_month_turned_leaves_late_calls_of_the_month_before_uncapped(tmp_path):
    """Else the first of them would open that month's row as if nothing had been spent in it."""
    clock = FakeClock("2026-04-30T23:59:59Z")

    async def scenario(books):
        await books.set_tenant()
        await books.ledger.settle(settlement(await books.reserve(100), 10))
        running = await books.reserve(100)
        late = reservation(100, at="2026-04-30T23:59:59.900Z")
        clock.set("2026-05-01T00:00:00.100Z")
        await books.set_cap("key", "k", 150)
        await books.admit(late)
        await books.ledger.settle(settlement(running, 10))
        await books.ledger.settle(settlement(late, 10))
        await books.reserve(100)
        with pytest.raises(BudgetExceeded):
            await books.reserve(100)

    run_on_books(tmp_path, scenario, clock=clock)
