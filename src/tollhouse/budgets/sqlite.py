"""The hot path's statements on SQLite: reading budgets, reserving, and moving money from reserved to posted.

They run in the writer's transaction. Since SQLite has one writer, what was read there cannot change before it is
written; each UPDATE still carries its condition, so that a breach would fail rather than overspend.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from tollhouse.budgets.model import Budget, BudgetKey, Movement, Reservation

_READ = """
SELECT cap_nano_usd, posted_nano_usd, reserved_nano_usd FROM ai_budgets
 WHERE tenant_id = ? AND billing_period = ? AND scope = ? AND scope_id = ?"""

_STANDING_CAPS = "SELECT scope, scope_id, cap_nano_usd FROM ai_budget_caps WHERE tenant_id = ?"
_STANDING_KEY_CAP = "SELECT cap_nano_usd FROM ai_budget_caps WHERE tenant_id = '' AND scope = 'key' AND scope_id = ?"

_OPEN = """
INSERT INTO ai_budgets (tenant_id, billing_period, scope, scope_id, cap_nano_usd) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING"""

_RESERVE = """
UPDATE ai_budgets SET reserved_nano_usd = reserved_nano_usd + ?1
 WHERE tenant_id = ?2 AND billing_period = ?3 AND scope = ?4 AND scope_id = ?5
   AND posted_nano_usd + reserved_nano_usd + ?1 <= cap_nano_usd"""

_MOVE = """
UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd + ?, reserved_nano_usd = reserved_nano_usd + ?
 WHERE tenant_id = ? AND billing_period = ? AND scope = ? AND scope_id = ?"""

_INSERT_RESERVATION = """
INSERT INTO ai_reservations (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider,
  price_version, ceiling_nano_usd, billing_period, created_at, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')"""

_CLOSE_RESERVATION = "DELETE FROM ai_reservations WHERE request_id = ? AND attempt = ? AND state = 'open'"
_HOLD_RESERVATION = """
UPDATE ai_reservations SET state = 'unknown' WHERE request_id = ? AND attempt = ? AND state = 'open'"""
_RESOLVE_RESERVATION = "DELETE FROM ai_reservations WHERE request_id = ? AND attempt = ? AND state = 'unknown'"


class BudgetReader:
    """The budgets a batch has looked at, each read once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[BudgetKey, Budget | None] = {}

    def budget(self, key: BudgetKey, tenant_cap_nano_usd: int) -> Budget | None:
        """Return a budget's state, opening the month where it begins; None where no such cap is set."""
        if key in self._known:
            return self._known[key]
        budget = self._read(key)
        if budget is None and self._open_month(key, tenant_cap_nano_usd):
            budget = self._read(key)
        self._known[key] = budget
        return budget

    def _read(self, key: BudgetKey) -> Budget | None:
        row = self._connection.execute(_READ, key).fetchone()
        return None if row is None else Budget(*row)

    def _open_month(self, key: BudgetKey, tenant_cap_nano_usd: int) -> bool:
        """Give the standing caps of a tenant, or of a key, their rows for a new month."""
        if key.scope == "tenant":
            caps = [("tenant", "", tenant_cap_nano_usd)]
            caps += self._connection.execute(_STANDING_CAPS, (key.tenant_id,)).fetchall()
        elif key.scope == "key":
            cap = self._connection.execute(_STANDING_KEY_CAP, (key.scope_id,)).fetchone()
            caps = [] if cap is None else [("key", key.scope_id, cap[0])]
        else:
            # A user's or a feature's month is opened together with its tenant's.
            return False
        rows = [(key.tenant_id, key.billing_period, scope, scope_id, cap) for scope, scope_id, cap in caps]
        self._connection.executemany(_OPEN, rows)
        return bool(rows)


def reserve(
    connection: sqlite3.Connection, amounts_nano_usd: Mapping[BudgetKey, int], reservations: Sequence[Reservation]
) -> None:
    """Count the amounts as reserved and enter the reservations.

    Raises:
        AssertionError: an amount does not fit its cap, which the caller's decision should have prevented.
    """
    rows = [(amount, *key) for key, amount in amounts_nano_usd.items()]
    changed = connection.executemany(_RESERVE, rows).rowcount if rows else 0
    assert changed == len(rows), "a reservation that does not fit its cap was let through"
    connection.executemany(_INSERT_RESERVATION, [_values(reservation) for reservation in reservations])


def _values(reservation: Reservation) -> tuple[str | int, ...]:
    return (
        reservation.request_id,
        reservation.attempt,
        reservation.tenant_id,
        reservation.user_id,
        reservation.feature_slug,
        reservation.service,
        reservation.key_id,
        reservation.model,
        reservation.provider,
        reservation.price_version,
        reservation.ceiling_nano_usd,
        reservation.billing_period,
        reservation.created_at,
    )


def move(connection: sqlite3.Connection, movements: Mapping[BudgetKey, Movement]) -> None:
    """Apply what a batch changed; a budget without a row has no cap and keeps no count."""
    connection.executemany(
        _MOVE, [(change.posted_nano_usd, change.reserved_nano_usd, *key) for key, change in movements.items()]
    )


def close_reservations(connection: sqlite3.Connection, closed: Sequence[Reservation]) -> None:
    """Remove the reservations of attempts that were settled or released.

    Raises:
        AssertionError: one of them is not open, so its money was counted before.
    """
    _change_reservations(connection, _CLOSE_RESERVATION, closed)


def hold_reservations(connection: sqlite3.Connection, unknown: Sequence[Reservation]) -> None:
    """Keep the reservations of attempts whose outcome is unknown counted at their ceiling; raises as above."""
    _change_reservations(connection, _HOLD_RESERVATION, unknown)


def resolve_reservations(connection: sqlite3.Connection, resolved: Sequence[Reservation]) -> None:
    """Remove the reservations of attempts that were held and whose outcome is now known.

    Raises:
        AssertionError: one of them is not held as unknown.
    """
    _change_reservations(connection, _RESOLVE_RESERVATION, resolved)


def _change_reservations(connection: sqlite3.Connection, statement: str, changed: Sequence[Reservation]) -> None:
    if changed:
        rows = [(reservation.request_id, reservation.attempt) for reservation in changed]
        assert connection.executemany(statement, rows).rowcount == len(rows), "a reservation was closed twice"
