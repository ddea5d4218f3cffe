"""The cap under thousands of calls at once, and a naive budget that shows that this test can fail."""

import asyncio
import contextlib
import sqlite3

import psycopg
import pytest

from harness import engines
from harness.books import Books, run_on_books
from tollhouse.errors import BudgetExceeded

CALLS, CEILING, FITTING = 2000, 100, 137
CAP = CEILING * FITTING + CEILING - 1


class NaiveBudget:
    """Checks on one connection and then debits on another, as gateways do that keep their budget in a cache."""

    def __init__(self, checking, debiting):
        self._checking, self._debiting = checking, debiting

    async def reserve(self, ceiling):
        ((left,),) = self._checking.execute("SELECT cap_nano_usd - reserved_nano_usd FROM ai_budgets").fetchall()
        if left < ceiling:
            raise BudgetExceeded("the naive budget is spent")
        # What every gateway does here: ask a cache, write a log, look up a route.
        await asyncio.sleep(0)
        self._debiting.execute(f"UPDATE ai_budgets SET reserved_nano_usd = reserved_nano_usd + {ceiling}")


def connected(folder):
    if engines.current() == "sqlite":
        return contextlib.closing(sqlite3.connect(folder / "books.db", isolation_level=None))
    return psycopg.connect(engines.database_url(folder / "books.db"), autocommit=True)


@pytest.fixture(autouse=True)
def _on_each_engine(on_each_engine):
    """All these tests run on each engine."""


async def check_that_the_cap_holds(books, reserve):
    """Make many calls at once, of which only some fit the cap; exactly those have to be admitted."""
    outcomes = await asyncio.gather(*(reserve(CEILING) for _ in range(CALLS)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceeded)]
    admitted = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    _, posted, reserved = await books.budget()
    assert len(admitted) + len(refused) == CALLS, "every call is either admitted or refused by its budget"
    assert (len(admitted), posted, reserved) == (FITTING, 0, CEILING * FITTING)


def test_of_2000_calls_at_once_exactly_those_are_admitted_that_fit_the_cap(tmp_path):
    async def scenario(books: Books):
        await books.set_tenant(cap=CAP)
        await check_that_the_cap_holds(books, books.reserve)
        assert len(await books.reservations()) == FITTING

    run_on_books(tmp_path, scenario)


def test_so_they_are_when_they_come_in_many_batches(tmp_path):
    async def scenario(books: Books):
        await books.set_tenant(cap=CAP)

        turns = iter(range(CALLS))

        async def reserve_later(ceiling):
            for _ in range(next(turns) % 97):
                await asyncio.sleep(0)
            return await books.reserve(ceiling)

        await check_that_the_cap_holds(books, reserve_later)

    run_on_books(tmp_path, scenario)


def test_so_they_are_by_every_cap_that_a_call_counts_against(tmp_path):
    async def scenario(books: Books):
        await books.set_tenant(cap=CAP)
        await books.set_cap("user", "u", CEILING * 50)
        await books.set_cap("key", "k", CEILING * 80)
        callers = [{"user_id": user, "key_id": key} for user in ("u", "v") for key in ("k", "l")] * 300
        calls = (books.reserve(CEILING, **caller) for caller in callers)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == FITTING
        for place in ((), ("user", "u"), ("key", "k")):
            cap, posted, reserved = await books.budget(*place)
            assert posted + reserved <= cap

    run_on_books(tmp_path, scenario)


def test_a_naive_budget_does_not_pass(tmp_path):
    async def scenario(books: Books):
        await books.set_tenant(cap=CAP)
        with connected(tmp_path) as checking, connected(tmp_path) as debiting:
            naive = NaiveBudget(checking, debiting)
            with pytest.raises(AssertionError):
                await check_that_the_cap_holds(books, naive.reserve)
        _, _, reserved = await books.budget()
        print(f"\nCONTROL {engines.current()} naive check-then-debit: overspend_nano_usd={max(0, reserved - CAP)}")
        assert reserved > CAP, "the naive budget was to be overspent by calls at once"

    run_on_books(tmp_path, scenario, is_consistent=False)
