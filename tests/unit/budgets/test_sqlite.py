"""The hot path's own statements: each carries its condition, so that a wrong decision fails and spends nothing."""

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from harness.books import reservation
from tollhouse.budgets import sqlite as budgets
from tollhouse.budgets.model import Budget, BudgetKey, Movement
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.storage.schema import metadata

pytestmark = pytest.mark.engine("sqlite")

NOW = "2026-04-10T12:00:00.000Z"
OWN = BudgetKey("42", "2026-04", "tenant", "")
USER = BudgetKey("42", "2026-04", "user", "u")
SERVICE_KEY = BudgetKey("", "2026-04", "key", "k")


@pytest.fixture
def connection():
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    metadata.create_all(engine)
    with contextlib.closing(engine.raw_connection()) as pooled:
        yield pooled.driver_connection
    engine.dispose()


def state(connection):
    rows = connection.execute("SELECT * FROM ai_budgets").fetchall()
    return {BudgetKey(*row[:4]): tuple(row[4:7]) for row in rows}


def stand(connection, key, cap, at=NOW):
    connection.execute(
        "INSERT INTO ai_budget_caps VALUES (?, ?, ?, ?, ?)", (key.tenant_id, key.scope, key.scope_id, cap, at)
    )


def test_a_month_is_opened_with_the_tenants_cap_and_all_that_stand_below_it(connection):
    stand(connection, USER, 7)
    stand(connection, USER._replace(tenant_id="43"), 8)
    stand(connection, SERVICE_KEY, 9)
    charged = budgets.BudgetReader(connection).charged(reservation(), 100)
    assert dict(charged) == {OWN: Budget(100, 0, 0), USER: Budget(7, 0, 0), SERVICE_KEY: Budget(9, 0, 0)}
    assert state(connection) == {OWN: (100, 0, 0), USER: (7, 0, 0), SERVICE_KEY: (9, 0, 0)}


@pytest.mark.parametrize(
    ("at", "is_opened"),
    [("2025-12-31T23:59:59.999Z", True), ("2026-04-30T23:59:59.999Z", True), ("2026-05-01T00:00:00.000Z", False)],
)
def test_a_keys_cap_is_for_the_month_it_was_set_in_and_later_ones(connection, at, is_opened):
    stand(connection, SERVICE_KEY, 9, at)
    budgets.BudgetReader(connection).charged(reservation(), 100)
    assert (SERVICE_KEY in state(connection)) == is_opened


def test_where_no_cap_stands_there_is_no_budget(connection):
    charged = budgets.BudgetReader(connection).charged(reservation(), 100)
    assert [key for key, _ in charged] == [OWN]
    assert list(state(connection)) == [OWN]


def test_a_call_without_a_user_counts_against_no_users_budget(connection):
    stand(connection, USER, 7)
    charged = budgets.BudgetReader(connection).charged(reservation(user_id=""), 100)
    assert [key for key, _ in charged] == [OWN]


def test_a_month_under_way_keeps_its_cap_and_its_counts(connection):
    connection.execute("INSERT INTO ai_budgets VALUES ('42', '2026-04', 'tenant', '', 50, 20, 10, 0)")
    assert budgets.BudgetReader(connection).charged(reservation(), 100) == [(OWN, Budget(50, 20, 10))]


def test_a_batch_reads_a_budget_once_so_that_it_sees_its_own_decisions(connection):
    reader = budgets.BudgetReader(connection)
    ((_, own),) = reader.charged(reservation(), 100)
    own.reserved_nano_usd += 30
    assert reader.charged(reservation(), 100) == [(OWN, Budget(100, 0, 30))]
    another_user = reservation(user_id="another")
    assert reader.charged(another_user, 100) == [(OWN, Budget(100, 0, 30))]


def test_a_reservation_is_entered_with_its_amount(connection):
    made = reservation(100)
    budgets.BudgetReader(connection).charged(made, 100)
    budgets.reserve(connection, {OWN: 100}, [made])
    assert state(connection) == {OWN: (100, 0, 100)}
    assert connection.execute("SELECT request_id, ceiling_nano_usd, state FROM ai_reservations").fetchall() == [
        (made.request_id, 100, "open")
    ]


@pytest.mark.parametrize("posted", [1, 50, 101])
def test_an_amount_that_does_not_fit_its_cap_is_never_written(connection, posted):
    connection.execute("INSERT INTO ai_budgets VALUES ('42', '2026-04', 'tenant', '', 100, ?, 0, 0)", (posted,))
    with pytest.raises(AssertionError, match="does not fit its cap"):
        budgets.reserve(connection, {OWN: 100}, [reservation(100)])
    assert state(connection) == {OWN: (100, posted, 0)}


def test_money_moves_from_reserved_to_posted_and_nowhere_without_a_cap(connection):
    connection.execute("INSERT INTO ai_budgets VALUES ('42', '2026-04', 'tenant', '', 100, 5, 40, 0)")
    movement = Movement()
    movement.posted_nano_usd, movement.reserved_nano_usd = 25, -40
    budgets.Mover(Thresholds()).move(connection, {OWN: movement, USER: movement}, NOW)
    assert state(connection) == {OWN: (100, 30, 0)}


def test_no_more_is_given_back_than_was_reserved(connection):
    connection.execute("INSERT INTO ai_budgets VALUES ('42', '2026-04', 'tenant', '', 100, 5, 40, 0)")
    movement = Movement()
    movement.reserved_nano_usd = -41
    with pytest.raises(sqlite3.IntegrityError, match="ai_budgets_reserved"):
        budgets.Mover(Thresholds()).free(connection, {OWN: movement})


@pytest.mark.parametrize("end", [budgets.close_reservations, budgets.hold_reservations, budgets.resolve_reservations])
def test_a_reservation_that_is_not_there_cannot_be_ended(connection, end):
    made = reservation()
    budgets.reserve(connection, {}, [made])
    with pytest.raises(AssertionError, match="closed twice"):
        end(connection, [made, reservation()])


def test_a_reservation_that_is_held_is_neither_open_nor_held_again(connection):
    made = reservation()
    budgets.reserve(connection, {}, [made])
    budgets.hold_reservations(connection, [made])
    for end in (budgets.close_reservations, budgets.hold_reservations):
        with pytest.raises(AssertionError, match="closed twice"):
            end(connection, [made])
    budgets.resolve_reservations(connection, [made])
    assert connection.execute("SELECT * FROM ai_reservations").fetchall() == []


def test_nothing_to_do_is_done(connection):
    budgets.reserve(connection, {}, [])
    budgets.Mover(Thresholds()).move(connection, {}, NOW)
    budgets.close_reservations(connection, [])
    budgets.hold_reservations(connection, [])
    budgets.resolve_reservations(connection, [])
