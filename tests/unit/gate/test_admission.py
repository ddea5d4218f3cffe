import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from harness.books import reservation, run_on_books, settlement
from harness.clock import FakeClock
from harness.database import read_only
from tollhouse.errors import (
    BudgetExceeded,
    FeatureDisabled,
    InternalError,
    ModelForbidden,
    ModuleExpired,
    ModuleInactive,
    RateLimited,
    Unavailable,
)
from tollhouse.gate.admission import Admission, Admitted
from tollhouse.idempotency.model import claim
from tollhouse.storage.sqlite import SqliteDatabase


async def outcomes(*admitting):
    """Admit all at once; return an outcome's name for each."""
    done = await asyncio.gather(*admitting, return_exceptions=True)
    return [type(outcome).__name__ for outcome in done]


HINDER_MONTHS = {
    "sqlite": "CREATE TRIGGER full BEFORE INSERT ON ai_budgets BEGIN SELECT RAISE(ABORT, 'full'); END",
    "postgresql": "ALTER TABLE ai_budgets ADD CONSTRAINT full_up CHECK (billing_period < '2026-05')",
}
HINDER_MONTHS_NO_MORE = {"sqlite": "DROP TRIGGER full", "postgresql": "ALTER TABLE ai_budgets DROP CONSTRAINT full_up"}


async def run(books, statement):
    await books.database.write(lambda connection: connection.execute(sa.text(statement)).close())


def note_batches(database):
    """Return a list to which the size of each batch of admissions is added."""
    batches: list[int] = []
    if isinstance(database, SqliteDatabase):
        admit = database._handlers[Admission]

        def noting(transaction, admissions):
            batches.append(len(admissions))
            return admit(transaction, admissions)

        database.handle(Admission, noting)
        return batches
    statement: Any = database._lanes[Admission]._statements[Admission]
    run_batch = statement.run

    def running(connection, admissions, timeout_s):
        batches.append(len(admissions))
        return run_batch(connection, admissions, timeout_s)

    statement.run = running
    return batches


# The module gate.


def test_a_tenant_that_was_never_set_up_is_inactive(tmp_path):
    async def scenario(books):
        with pytest.raises(ModuleInactive, match="tenant 42 is not active; an administrator can activate it"):
            await books.reserve()
        assert await books.budgets() == {}

    run_on_books(tmp_path, scenario)


def test_a_module_is_closed_and_opened_with_the_next_call(tmp_path):
    async def scenario(books):
        await books.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await books.reserve()
        await books.set_tenant(is_active=True)
        await books.reserve()
        await books.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await books.reserve()

    run_on_books(tmp_path, scenario)


def test_a_module_expires_at_its_very_instant(tmp_path):
    async def scenario(books):
        await books.set_tenant(expires_at="2026-04-10T12:00:01.000Z")
        books.clock.advance(0.999)
        await books.reserve()
        books.clock.advance(0.001)
        with pytest.raises(ModuleExpired, match=r"expired at 2026-04-10T12:00:01\.000Z"):
            await books.reserve()

    run_on_books(tmp_path, scenario)


def test_a_feature_is_on_unless_it_is_switched_off_for_the_tenant(tmp_path):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id)
        await books.set_feature("f", is_enabled=False, tenant_id="42")
        with pytest.raises(FeatureDisabled, match="the feature 'f' is switched off for tenant 42"):
            await books.reserve(feature_slug="f")
        await books.reserve(feature_slug="g")
        await books.reserve(feature_slug="f", tenant_id="43")
        await books.set_feature("f", is_enabled=True, tenant_id="42")
        await books.reserve(feature_slug="f")

    run_on_books(tmp_path, scenario)


def test_a_further_attempt_passes_the_gate_and_the_budgets_too(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        with pytest.raises(BudgetExceeded):
            await books.admit(reservation(101, attempt=2), is_first=False)
        await books.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await books.admit(reservation(attempt=2), is_first=False)

    run_on_books(tmp_path, scenario)


# The rate limit.


def test_the_rate_limit_is_each_tenants_own_and_says_when_to_come_back(tmp_path):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id)
        for _ in range(2):
            await books.reserve()
        with pytest.raises(RateLimited, match="try again in 10 s") as caught:
            await books.reserve()
        # The database's clock goes on meanwhile.
        assert caught.value.retry_after_s == pytest.approx(10, abs=5)
        await books.reserve(tenant_id="43")
        await books.pass_time(10)
        await books.reserve()

    run_on_books(tmp_path, scenario, requests_per_minute=6, burst=2)


def test_a_further_attempt_of_the_same_call_is_not_limited(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = await books.reserve()
        for attempt in (2, 3, 4):
            again = reservation(request_id=first.request_id, attempt=attempt)
            assert isinstance(await books.admit(again, is_first=False), Admitted)

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=1)


def test_refused_calls_use_nothing_up(tmp_path):
    async def scenario(books):
        await books.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await books.reserve()
        await books.set_tenant(cap=100)
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                await books.reserve(101)
        await books.reserve(100)
        with pytest.raises(RateLimited):
            await books.reserve(0)

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=1)


def test_a_replay_is_not_limited(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        mine = claim("th_secret", "order-7", b"body", "2026-04-11T12:00:00.000Z")
        made = reservation()
        await books.admit(made, mine)
        await books.ledger.settle(settlement(made, 1, claim=mine, sealed_answer=b"sealed"))
        for _ in range(3):
            await books.admit(reservation(), mine)

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=1)


def test_what_the_database_could_not_take_is_not_held_against_the_rate(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        taken = await books.reserve(request_id="req_taken")
        await books.pass_time(60)
        with pytest.raises(InternalError):
            await books.reserve(request_id="req_taken")
        await books.ledger.release(taken)
        await books.reserve()

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=1)


def test_a_month_that_cannot_be_opened_is_not_held_against_the_rate(tmp_path, engine):
    async def scenario(books):
        await books.set_tenant()
        books.clock.set("2026-05-01T00:00:00Z")
        await run(books, HINDER_MONTHS[engine])
        with pytest.raises(InternalError):
            await books.reserve()
        await run(books, HINDER_MONTHS_NO_MORE[engine])
        await books.reserve()

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=1)


# The budgets.


def test_a_ceiling_that_fits_exactly_is_admitted_and_not_a_nano_usd_more(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        await books.reserve(600)
        with pytest.raises(BudgetExceeded):
            await books.reserve(401)
        await books.reserve(400)
        await books.reserve(0)
        with pytest.raises(BudgetExceeded):
            await books.reserve(1)
        assert await books.budget() == (1000, 0, 1000)

    run_on_books(tmp_path, scenario)


def test_the_refusal_says_what_does_not_fit_where_in_plain_figures(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=2_500_000_000)
        with pytest.raises(BudgetExceeded) as caught:
            await books.reserve(2_500_000_001)
        assert caught.value.message == (
            "this call could cost up to $2.500000001, but tenant 42 has $2.5 left of its $2.5 for 2026-04; "
            "lower max_tokens, or have the budget raised"
        )
        await books.set_tenant(cap=5)
        with pytest.raises(BudgetExceeded, match=r"up to \$0\.000000006, but tenant 42 has \$0\.000000005 left"):
            await books.reserve(6)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(("scope", "scope_id"), [("user", "u"), ("feature", "f"), ("key", "k")])
def test_each_cap_refuses_and_then_nothing_is_taken_from_the_others(tmp_path, scope, scope_id):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        for each, each_id in (("user", "u"), ("feature", "f"), ("key", "k")):
            await books.set_cap(each, each_id, 50 if each == scope else 500)
        before = await books.budgets()
        with pytest.raises(BudgetExceeded):
            await books.reserve(51)
        assert await books.budgets() == before
        await books.reserve(50)
        assert {budget[2] for budget in (await books.budgets()).values()} == {50}

    run_on_books(tmp_path, scenario)


def test_the_calls_of_a_batch_see_each_others_reservations(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        await books.set_cap("user", "u", 250)
        batches = note_batches(books.database)
        wanted = [books.reserve(100) for _ in range(3)] + [books.reserve(400, user_id="v") for _ in range(3)]
        assert await outcomes(*wanted) == [
            "Reservation",
            "Reservation",
            "BudgetExceeded",
            "Reservation",
            "Reservation",
            "BudgetExceeded",
        ]
        assert await books.budget() == (1000, 0, 1000)
        assert await books.budget("user", "u") == (250, 0, 200)
        assert batches == [6]

    run_on_books(tmp_path, scenario)


def test_a_smaller_call_of_the_same_batch_still_fits_after_a_larger_one_did_not(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        assert await outcomes(*map(books.reserve, [60, 50, 40, 1])) == [
            "Reservation",
            "BudgetExceeded",
            "Reservation",
            "BudgetExceeded",
        ]

    run_on_books(tmp_path, scenario)


def test_a_new_month_begins_with_nothing_spent_and_last_months_calls_are_charged_to_last_month(tmp_path):
    clock = FakeClock("2026-04-30T23:59:59.999Z")

    async def scenario(books):
        await books.set_tenant(cap=100)
        late = await books.reserve(100)
        clock.advance(0.001)
        await books.reserve(100)
        with pytest.raises(BudgetExceeded, match="for 2026-05"):
            await books.reserve(1)
        await books.ledger.settle(settlement(late, 70, created_at="2026-05-01T00:00:00.500Z"))
        assert {key.billing_period: budget for key, budget in (await books.budgets()).items()} == {
            "2026-04": (100, 70, 0),
            "2026-05": (100, 0, 100),
        }

    run_on_books(tmp_path, scenario, clock=clock)


def test_a_batch_may_span_the_end_of_a_month(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        april, may = ([reservation(60, at=f"2026-0{month}-01T00:00:00.000Z") for _ in range(2)] for month in (4, 5))
        wanted = [books.admit(each) for pair in zip(april, may, strict=True) for each in pair]
        assert await outcomes(*wanted) == ["Admitted", "Admitted", "BudgetExceeded", "BudgetExceeded"]

    run_on_books(tmp_path, scenario)


def test_an_unknown_outcome_stays_counted_against_the_cap(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        lost = await books.reserve(70)
        await books.ledger.hold(lost, 1)
        with pytest.raises(BudgetExceeded):
            await books.reserve(31)
        await books.reserve(30)

    run_on_books(tmp_path, scenario)


def test_a_lowered_cap_holds_with_the_next_call_and_a_raised_one_too(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        await books.reserve(500)
        await books.set_tenant(cap=400)
        assert await books.budget() == (400, 0, 500)
        with pytest.raises(BudgetExceeded, match=r"has \$0 left"):
            await books.reserve(1)
        await books.set_tenant(cap=600)
        await books.reserve(100)

    run_on_books(tmp_path, scenario)


def test_what_is_admitted_is_on_record_with_all_that_the_ledger_needs(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(attempt=3, user_id="")
        assert await books.reservations() == {(made.request_id, 3): "open"}

    run_on_books(tmp_path, scenario)


def test_while_the_database_cannot_be_written_nobody_is_admitted(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        async with read_only(books.database):
            with pytest.raises(Unavailable):
                await books.reserve()
        await books.reserve()
        assert len(await books.reservations()) == 1

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("tier", ["starter", "growth"])
def test_a_model_that_only_some_tiers_have_is_refused_to_the_others(tmp_path, tier):
    async def scenario(books):
        await books.set_tenant(tier=tier)
        await books.set_tenant("43", tier=tier, is_active=False)
        among = {None: True, frozenset({"growth", "enterprise"}): tier == "growth", frozenset[str](): False}
        admitting = [
            books.gate.admit(Admission(reservation(request_id=f"req_{number}"), tiers=tiers))
            for number, tiers in enumerate(among)
        ]
        admitting.append(books.gate.admit(Admission(reservation(request_id="r", tenant_id="43"), tiers=frozenset())))
        expected = ["Admitted" if is_among else "ModelForbidden" for is_among in among.values()]
        assert await outcomes(*admitting) == [*expected, "ModuleInactive"]
        with pytest.raises(ModelForbidden, match=f"those of the tier {tier}, which tenant 42 has"):
            await books.gate.admit(Admission(reservation(request_id="again"), tiers=frozenset()))
        assert len(await books.reservations()) == sum(among.values())

    run_on_books(tmp_path, scenario)
