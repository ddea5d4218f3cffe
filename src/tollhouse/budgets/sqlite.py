"""The hot path's statements on SQLite: reading budgets, reserving, and moving money from reserved to posted.

They run in the writer's transaction. Since SQLite has one writer, what was read there cannot change before it is
written; each UPDATE still carries its condition, so that a breach would fail rather than overspend.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tollhouse.budgets.model import Budget, BudgetKey, ChargedTo, Movement, Reservation, budget_keys, charged_to
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.events import outbox
from tollhouse.events import sqlite as events
from tollhouse.kit.clock import epoch_ms
from tollhouse.kit.scopes import Scope

# All budgets of a call at once, which is half the work of reading them one by one.
_READ = " UNION ALL ".join(
    "SELECT tenant_id, billing_period, scope, scope_id, cap_nano_usd, posted_nano_usd, reserved_nano_usd "  # noqa: S608 - constants
    "FROM ai_budgets "
    f"WHERE tenant_id = {tenant_id} AND billing_period = ?2 AND scope = '{scope}' AND scope_id = {scope_id}"
    for tenant_id, scope, scope_id in (
        ("?1", "tenant", "''"),
        ("?1", "user", "?3"),
        ("?1", "feature", "?4"),
        ("''", "key", "?5"),
    )
)

_STANDING_CAPS = "SELECT scope, scope_id, cap_nano_usd FROM ai_budget_caps WHERE tenant_id = ?"
# Not for months before the one it was set in: a late call of theirs would open its row as if it were the first.
_STANDING_KEY_CAP = """
SELECT cap_nano_usd FROM ai_budget_caps
 WHERE tenant_id = '' AND scope = 'key' AND scope_id = ? AND substr(updated_at, 1, 7) <= ?"""

_OPEN = """
INSERT INTO ai_budgets (tenant_id, billing_period, scope, scope_id, cap_nano_usd) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING"""

_RESERVE = """
UPDATE ai_budgets SET reserved_nano_usd = reserved_nano_usd + ?1
 WHERE tenant_id = ?2 AND billing_period = ?3 AND scope = ?4 AND scope_id = ?5
   AND posted_nano_usd + reserved_nano_usd + ?1 <= cap_nano_usd"""

_MOVE = """
UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd + ?1, reserved_nano_usd = reserved_nano_usd + ?2
 WHERE tenant_id = ?3 AND billing_period = ?4 AND scope = ?5 AND scope_id = ?6"""

# Compared where the row is at hand anyway; the function is called once a threshold is passed, and never before.
_MOVE_AND_NOTE = """
UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd + ?1, reserved_nano_usd = reserved_nano_usd + ?2,
       told_percent = CASE WHEN (posted_nano_usd + ?1) * 100 >= cap_nano_usd * CASE {next_percent} END
                           THEN note_passed(tenant_id, billing_period, scope, scope_id, cap_nano_usd,
                                            posted_nano_usd + ?1, told_percent)
                           ELSE told_percent END
 WHERE tenant_id = ?3 AND billing_period = ?4 AND scope = ?5 AND scope_id = ?6"""

_COLUMNS = Reservation.__struct_fields__
_INSERT_RESERVATION = f"""
INSERT INTO ai_reservations ({", ".join(_COLUMNS)}, state) VALUES ({", ".join("?" * len(_COLUMNS))}, 'open')"""  # noqa: S608 - constants

_CLOSE_RESERVATION = "DELETE FROM ai_reservations WHERE request_id = ? AND attempt = ? AND state = 'open'"
_HOLD_RESERVATION = """
UPDATE ai_reservations SET state = 'unknown' WHERE request_id = ? AND attempt = ? AND state = 'open'"""
_RESOLVE_RESERVATION = "DELETE FROM ai_reservations WHERE request_id = ? AND attempt = ? AND state = 'unknown'"


Charged = Sequence[tuple[BudgetKey, Budget]]


class BudgetReader:
    """The budgets a batch has looked at, each read once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[BudgetKey, Budget | None] = {}
        self._charged: dict[ChargedTo, Charged] = {}

    def charged(self, reservation: Reservation, tenant_cap_nano_usd: int) -> Charged:
        """Return the budgets that a reservation counts against, where a cap is set, opening the month where it begins.

        A budget is one object for all the batch: what the caller changes in it, the next reservation sees.
        """
        caller = charged_to(reservation)
        charged = self._charged.get(caller)
        if charged is None:
            charged = self._charged[caller] = self._find(caller, tenant_cap_nano_usd)
        return charged

    def _find(self, caller: ChargedTo, tenant_cap_nano_usd: int) -> Charged:
        keys = budget_keys(*caller)
        self._read(caller)
        opened = [self._open_month(key, tenant_cap_nano_usd) for key in keys if key not in self._known]
        if any(opened):
            self._read(caller)
        return [(key, budget) for key in keys if (budget := self._known.setdefault(key, None)) is not None]

    def _read(self, caller: ChargedTo) -> None:
        for *key, cap, posted, reserved in self._connection.execute(_READ, caller):
            self._known.setdefault(BudgetKey(*key), Budget(cap, posted, reserved))

    def _open_month(self, key: BudgetKey, tenant_cap_nano_usd: int) -> bool:
        """Give the standing caps of a tenant, or of a key, their rows for a new month."""
        if key.scope == "tenant":
            caps = [("tenant", "", tenant_cap_nano_usd)]
            caps += self._connection.execute(_STANDING_CAPS, (key.tenant_id,)).fetchall()
        elif key.scope == "key":
            cap = self._connection.execute(_STANDING_KEY_CAP, (key.scope_id, key.billing_period)).fetchone()
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
    if changed != len(rows):
        raise AssertionError("a reservation that does not fit its cap was let through")
    connection.executemany(_INSERT_RESERVATION, map(msgspec.structs.astuple, reservations))


class Mover:
    """Applies what batches change in budgets; a budget without a row has no cap and keeps no count.

    Args:
        thresholds: shares of a cap that are told of once they are spent.

    Attributes:
        functions: what the writing connection has to know, by its names in SQL.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self.functions = {"note_passed": self._note}
        self._thresholds = thresholds
        self._passed: list[tuple[BudgetKey, Budget, int]] = []
        next_percent = " ".join(f"WHEN told_percent < {percent} THEN {percent}" for percent in thresholds.percents)
        self._move_and_note = _MOVE_AND_NOTE.format(next_percent=next_percent) if next_percent else _MOVE

    def free(self, connection: sqlite3.Connection, movements: Mapping[BudgetKey, Movement]) -> None:
        """Apply movements that post nothing."""
        connection.executemany(_MOVE, _moved(movements))

    def move(self, connection: sqlite3.Connection, movements: Mapping[BudgetKey, Movement], at: str) -> None:
        """Apply movements, and tell of the thresholds that are passed by them.

        Args:
            at: when they were settled; ISO 8601 in UTC.
        """
        self._passed.clear()
        connection.executemany(self._move_and_note, _moved(movements))
        if self._passed:
            at_ms = epoch_ms(datetime.fromisoformat(at))
            rows = [outbox.row(each) for passed in self._passed for each in self._thresholds.events(*passed, at_ms)]
            # Beyond 64 bits SQLite compares as floats, and may have asked a little too early.
            if rows:
                events.insert(connection, rows)

    def _note(
        self, tenant_id: str, period: str, scope: Scope, scope_id: str, cap: int, posted: int, told_percent: int
    ) -> int:
        budget = Budget(cap, posted, 0)
        self._passed.append((BudgetKey(tenant_id, period, scope, scope_id), budget, told_percent))
        return max(told_percent, self._thresholds.passed(budget))


def _moved(movements: Mapping[BudgetKey, Movement]) -> list[tuple[int | str, ...]]:
    return [(change.posted_nano_usd, change.reserved_nano_usd, *key) for key, change in movements.items()]


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
        if connection.executemany(statement, rows).rowcount != len(rows):
            raise AssertionError("a reservation was closed twice")
