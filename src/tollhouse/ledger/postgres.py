"""Settling on PostgreSQL: a batch of endings is one statement (storage/functions/settle.sql and release.sql)."""

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import msgspec

from tollhouse.budgets.thresholds import Thresholds
from tollhouse.errors import EpochLost, Unavailable
from tollhouse.idempotency.model import FreeClaim
from tollhouse.instances.lease import Lease
from tollhouse.ledger.model import Ending, Release, Settlement

_COLUMNS = (
    *("text[]", "int[]", *["text[]"] * 7),
    *["bigint[]"] * 8,
    *["text[]"] * 4,
    *("int[]", *["text[]"] * 4),
)
_ARGUMENTS = ("bigint", "text[]", "int[]", "bytea[]", "bigint[]", *_COLUMNS, "text[]", "bytea[]", "int[]")
_SETTLE = "SELECT ai_settle({})".format(
    ", ".join(f"${place}::{argument}" for place, argument in enumerate(_ARGUMENTS, start=1))
)
_RELEASE = "SELECT ai_release($1::bigint, $2::text[], $3::int[])"
_FREE = """
DELETE FROM ai_idempotency i USING unnest($1::text[], $2::text[]) AS f (claim_id, request_id)
 WHERE i.claim_id = f.claim_id AND i.request_id = f.request_id AND i.sealed_answer IS NULL AND NOT i.is_lost"""

_SETTLED = """
SELECT u.request_id, u.attempt FROM ai_usage_log u
  JOIN unnest($1::text[], $2::int[], $3::text[], $4::text[])
       AS e (request_id, attempt, status, billing_period) USING (request_id, attempt, status, billing_period)"""
_OPEN = """
SELECT r.request_id, r.attempt FROM ai_reservations r
  JOIN unnest($1::text[], $2::int[]) AS e (request_id, attempt) USING (request_id, attempt)
 WHERE r.state = 'open'"""

# The place of prev_hash, empty, at the end of what is hashed of an entry; the database puts the hash there.
_EMPTY_HASH = b'""]'

_Attempt = tuple[str, int]


class _Endings:
    """What the endings have in common: they are written even if nobody waits for them."""

    waits_for_connection = True

    def __init__(self, lease: Lease, write_later: Callable[[Ending], None]) -> None:
        """``write_later`` takes an ending that could not be written after all."""
        self._lease = lease
        self._write_later = write_later

    def late(self, operation: Ending, outcome: Any) -> None:
        if isinstance(outcome, Unavailable) and not isinstance(outcome, EpochLost):
            self._write_later(operation)


class PostgresSettlements(_Endings):
    """Carries out batches of settlements."""

    def __init__(self, lease: Lease, write_later: Callable[[Ending], None], thresholds: Thresholds) -> None:
        """``thresholds`` are shares of a cap that are told of once they are spent; for the others see above."""
        super().__init__(lease, write_later)
        self._percents = thresholds.percents

    async def run(
        self, connection: asyncpg.Connection, operations: Sequence[Settlement], timeout_s: float
    ) -> Sequence[Any]:
        tenants: dict[str, int] = {}
        heads = [tenants.setdefault(each.reservation.tenant_id, len(tenants) + 1) for each in operations]
        entries = [each.entry("") for each in operations]
        *columns, _ = zip(*map(msgspec.structs.astuple, entries), strict=True)
        await connection.execute(
            _SETTLE,
            self._lease.epoch,
            list(tenants),
            heads,
            [entry.hashed().removesuffix(_EMPTY_HASH) for entry in entries],
            [each.reservation.ceiling_nano_usd for each in operations],
            *columns,
            [None if each.claim is None else each.claim.claim_id for each in operations],
            [each.sealed_answer for each in operations],
            self._percents,
            timeout=timeout_s,
        )
        return [None] * len(operations)

    async def look(self, connection: asyncpg.Connection, operations: Sequence[Settlement]) -> Sequence[Any]:
        rows = await connection.fetch(
            _SETTLED,
            *_attempts([each.reservation for each in operations]),
            [each.status for each in operations],
            [each.reservation.billing_period for each in operations],
        )
        found = {(row[0], row[1]) for row in rows}
        return [_DONE if _attempt(each.reservation) in found else None for each in operations]


class PostgresReleases(_Endings):
    """Carries out batches of releases."""

    async def run(
        self, connection: asyncpg.Connection, operations: Sequence[Release], timeout_s: float
    ) -> Sequence[Any]:
        attempts = _attempts([each.reservation for each in operations])
        await connection.execute(_RELEASE, self._lease.epoch, *attempts, timeout=timeout_s)
        return [None] * len(operations)

    async def look(self, connection: asyncpg.Connection, operations: Sequence[Release]) -> Sequence[Any]:
        rows = await connection.fetch(_OPEN, *_attempts([each.reservation for each in operations]))
        still_open = {(row[0], row[1]) for row in rows}
        return [None if _attempt(each.reservation) in still_open else _DONE for each in operations]


class PostgresFreedClaims(_Endings):
    """Carries out batches of freed claims; to free one twice changes nothing."""

    async def run(
        self, connection: asyncpg.Connection, operations: Sequence[FreeClaim], timeout_s: float
    ) -> Sequence[Any]:
        claims = [each.claim.claim_id for each in operations]
        await connection.execute(_FREE, claims, [each.request_id for each in operations], timeout=timeout_s)
        return [None] * len(operations)

    async def look(self, _connection: asyncpg.Connection, operations: Sequence[FreeClaim]) -> Sequence[Any]:
        return [None] * len(operations)


# What a lane delivers for an operation that it found committed; submitters of endings make no use of it.
_DONE = True


def _attempt(reservation: Any) -> _Attempt:
    return reservation.request_id, reservation.attempt


def _attempts(reservations: Sequence[Any]) -> tuple[list[str], list[int]]:
    return [each.request_id for each in reservations], [each.attempt for each in reservations]
