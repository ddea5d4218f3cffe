"""Settling on SQLite, in one transaction: the row, its chain, the reservation, the budgets and the rollups."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from tollhouse.budgets import sqlite as budgets
from tollhouse.budgets.model import (
    BudgetKey,
    ChargedTo,
    Movement,
    Reservation,
    budget_keys,
    charged_to,
    limited_by_of,
)
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.idempotency import sqlite as idempotency
from tollhouse.idempotency.model import Claim, FreeClaim
from tollhouse.ledger.model import GENESIS_HASH, LedgerEntry, Release, Settlement, Status
from tollhouse.ledger.rollups import DAILY_KEY, MONTHLY_KEY, counts, daily_key, monthly_key, sums
from tollhouse.limits.sqlite import Ended, Limiter
from tollhouse.storage.database import Transaction
from tollhouse.storage.schema import ROLLUP_COUNTS
from tollhouse.storage.sqlite import SqliteDatabase

_COLUMNS = (*LedgerEntry.__struct_fields__, "row_hash")
_INSERT = f"INSERT INTO ai_usage_log ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - constants
_HEAD = "SELECT entries, last_hash FROM ai_ledger_heads WHERE tenant_id = ?"
_SET_HEAD = """
INSERT INTO ai_ledger_heads (tenant_id, entries, last_hash) VALUES (?, ?, ?)
ON CONFLICT (tenant_id) DO UPDATE SET entries = excluded.entries, last_hash = excluded.last_hash"""


def _upsert(table: str, key: Sequence[str]) -> str:
    columns = (*key, *ROLLUP_COUNTS)
    additions = ", ".join(f"{count} = {count} + excluded.{count}" for count in ROLLUP_COUNTS)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - constants
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {additions}"
    )


_MONTHLY = _upsert("ai_usage_monthly", MONTHLY_KEY)
_DAILY = _upsert("ai_usage_daily", DAILY_KEY)


def handle_on(database: SqliteDatabase, limiter: Limiter, thresholds: Thresholds) -> None:
    """Have a SQLite database settle and release; ``limiter`` is told of what has ended.

    Args:
        thresholds: shares of a cap that are told of once they are spent.
    """
    mover = budgets.Mover(thresholds)
    database.define(mover.functions)

    def settle(transaction: Transaction, settlements: Sequence[Settlement]) -> list[None]:
        done = _settle(transaction, settlements, mover)
        if limiter.wants_ends:
            # What an adjustment resolves has not run for long.
            ended = [each for each in settlements if each.status != "adjustment"]
            limiter.end(transaction, [_ended(each.reservation, _used(each)) for each in ended])
        return done

    def release(transaction: Transaction, releases: Sequence[Release]) -> list[None]:
        done = _release(transaction, releases, mover)
        if limiter.wants_ends:
            limiter.end(transaction, [_ended(each.reservation, 0) for each in releases])
        return done

    database.handle(Settlement, settle)
    database.handle(Release, release)
    database.handle(FreeClaim, _free)


def _used(settlement: Settlement) -> int | None:
    return None if settlement.status == "unknown" else settlement.usage.total_tokens


def _ended(reservation: Reservation, used: int | None) -> Ended:
    return Ended((reservation.request_id, reservation.attempt), limited_by_of(reservation), used)


def _settle(transaction: Transaction, settlements: Sequence[Settlement], mover: budgets.Mover) -> list[None]:
    connection: sqlite3.Connection = transaction.connection
    entries = _chain(connection, settlements)
    added = [
        counts(entry, settlement.reservation.ceiling_nano_usd)
        for entry, settlement in zip(entries, settlements, strict=True)
    ]
    connection.executemany(_MONTHLY, sums(map(monthly_key, entries), added))
    connection.executemany(_DAILY, sums(map(daily_key, entries), added))
    ended: dict[Status, list[Reservation]] = {"settled": [], "unknown": [], "adjustment": []}
    for settlement in settlements:
        ended[settlement.status].append(settlement.reservation)
    budgets.close_reservations(connection, ended["settled"])
    budgets.hold_reservations(connection, ended["unknown"])
    budgets.resolve_reservations(connection, ended["adjustment"])
    billed = [(each.reservation, each.cost_nano_usd) for each in settlements if each.status != "unknown"]
    mover.move(connection, _movements(billed), settlements[-1].created_at)
    _end_claims(connection, [settlement for settlement in settlements if settlement.claim is not None])
    return [None] * len(settlements)


def _end_claims(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    """Keep the answers of calls with an idempotency key, or note that they were lost."""
    answers: list[tuple[Claim, str, bytes]] = []
    lost: list[tuple[Claim, str]] = []
    for settlement in settlements:
        claim, request_id = settlement.claim, settlement.reservation.request_id
        if claim is not None and settlement.sealed_answer is not None:
            answers.append((claim, request_id, settlement.sealed_answer))
        elif claim is not None and settlement.status == "unknown":
            lost.append((claim, request_id))
    idempotency.answer(connection, answers)
    idempotency.lose(connection, lost)


def _release(transaction: Transaction, releases: Sequence[Release], mover: budgets.Mover) -> list[None]:
    connection: sqlite3.Connection = transaction.connection
    budgets.close_reservations(connection, [release.reservation for release in releases])
    mover.free(connection, _movements([(release.reservation, 0) for release in releases]))
    return [None] * len(releases)


def _free(transaction: Transaction, freed: Sequence[FreeClaim]) -> list[None]:
    idempotency.free(transaction.connection, freed)
    return [None] * len(freed)


def _chain(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> list[LedgerEntry]:
    """Append the rows to their tenants' chains."""
    heads: dict[str, tuple[int, str]] = {}
    entries: list[LedgerEntry] = []
    rows: list[tuple[object, ...]] = []
    for settlement in settlements:
        tenant_id = settlement.reservation.tenant_id
        head = heads.get(tenant_id) or connection.execute(_HEAD, (tenant_id,)).fetchone() or (0, GENESIS_HASH)
        entry = settlement.entry(head[1])
        row_hash = entry.row_hash()
        heads[tenant_id] = (head[0] + 1, row_hash)
        entries.append(entry)
        rows.append((*msgspec.structs.astuple(entry), row_hash))
    connection.executemany(_INSERT, rows)
    connection.executemany(_SET_HEAD, [(tenant_id, *head) for tenant_id, head in heads.items()])
    return entries


def _movements(ended: Sequence[tuple[Reservation, int]]) -> dict[BudgetKey, Movement]:
    """Return what ended attempts change in each budget: their ceiling is freed, their cost is posted."""
    by_caller: dict[ChargedTo, Movement] = defaultdict(Movement)
    for reservation, cost_nano_usd in ended:
        by_caller[charged_to(reservation)].add(cost_nano_usd, -reservation.ceiling_nano_usd)
    movements: dict[BudgetKey, Movement] = defaultdict(Movement)
    for caller, total in by_caller.items():
        for key in budget_keys(*caller):
            movements[key].add(total.posted_nano_usd, total.reserved_nano_usd)
    return movements
