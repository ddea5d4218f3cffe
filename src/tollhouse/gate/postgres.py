"""Admission on PostgreSQL: a batch is decided by the database, in one statement (storage/functions/admit.sql).

Gates, caps, claims and rate limits are read and written in the transaction that reserves, under the locks of the
budgets: what one instance admits, every other one sees.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import asyncpg
import msgspec

from tollhouse.budgets.model import BudgetKey, ChargedTo, Reservation, budget_keys, charged_to
from tollhouse.errors import TollhouseError
from tollhouse.gate import refusals
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.instances.lease import Lease
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.postgres.failures import epoch_lost, outdated

_US_PER_MINUTE = 60_000_000
_US_PER_S = 1_000_000
_ARGUMENTS = (
    *("bigint", "text", "bigint", "bigint"),
    *["text[]"] * 10,
    *("text[]", "int[]", *["text[]"] * 8, "bigint[]", "text[]", "text[]"),
    *["int[]"] * 6,
    *("bool[]", "int[]", "text[]", "text[]"),
)
_ADMIT = "SELECT place, verdict, subject, amount, budget, cap, sealed FROM ai_admit({})".format(  # noqa: S608 - constants
    ", ".join(f"${place}::{argument}" for place, argument in enumerate(_ARGUMENTS, start=1))
)
_ADMITTED = """
SELECT r.request_id FROM ai_reservations r
  JOIN unnest($1::text[], $2::int[]) AS e (request_id, attempt) USING (request_id, attempt)
 WHERE r.state = 'open' AND r.epoch = $3"""

_reservation_of: Callable[[Admission], Reservation] = attrgetter("reservation")


class PostgresAdmissions:
    """Carries out batches of admissions.

    Args:
        give_back: called for an attempt that was admitted after its caller had been told that it was not.
    """

    # A caller is told at once that the database is away; it may ask another instance.
    waits_for_connection = False

    def __init__(
        self,
        lease: Lease,
        clock: Clock,
        give_back: Callable[[Admission], None],
        *,
        requests_per_minute: int,
        burst: int,
    ) -> None:
        """``requests_per_minute`` 0 means no limit; see ``RateLimiter`` for both."""
        self._lease = lease
        self._clock = clock
        self._give_back = give_back
        self._interval_us = _US_PER_MINUTE // requests_per_minute if requests_per_minute else 0
        self._tolerance_us = self._interval_us * burst

    async def run(
        self, connection: asyncpg.Connection, operations: Sequence[Admission], timeout_s: float
    ) -> Sequence[Any]:
        if self._lease.is_over:
            return [outdated() for _ in operations]
        epoch = self._lease.epoch
        going_on = [each for each in operations if each.epoch in {0, epoch}]
        if len(going_on) < len(operations):
            decided = iter(await self.run(connection, going_on, timeout_s) if going_on else ())
            return [next(decided) if each.epoch in {0, epoch} else epoch_lost() for each in operations]
        batch = _Batch(operations)
        rows = await connection.fetch(
            _ADMIT,
            epoch,
            utc_text(self._clock.now_ms()),
            self._interval_us,
            self._tolerance_us,
            *batch.arguments(),
            timeout=timeout_s,
        )
        outcomes: list[Any] = [Admitted(epoch, self._lease.holds)] * len(operations)
        for row in rows:
            place = row["place"] - 1
            outcomes[place] = batch.refusal(operations[place], row)
        return outcomes

    async def look(self, connection: asyncpg.Connection, operations: Sequence[Admission]) -> Sequence[Any]:
        epoch = self._lease.epoch
        attempts = [(each.reservation.request_id, each.reservation.attempt) for each in operations]
        found = {row[0] for row in await connection.fetch(_ADMITTED, *zip(*attempts, strict=True), epoch)}
        admitted = Admitted(epoch, self._lease.holds)
        return [admitted if request_id in found else None for request_id, _ in attempts]

    def late(self, operation: Admission, outcome: Any) -> None:
        if isinstance(outcome, Admitted):
            self._give_back(operation)


def _gate_of(admission: Admission) -> tuple[str, str, str | None]:
    """Return what decides whether the gate is open: tenant, feature, and the tiers that have the model, a line each."""
    of, tiers = admission.reservation, admission.tiers
    return of.tenant_id, of.feature_slug, None if tiers is None else "\n".join(sorted(tiers))


class _Batch:
    """What a batch shares, each once, and which of it each of its attempts is about."""

    def __init__(self, admissions: Sequence[Admission]) -> None:
        self._keys: dict[BudgetKey, int] = {}
        self._gates: dict[tuple[str, str, str | None], int] = {}
        self._tenants: dict[str, int] = {}
        self._claims: dict[str, int] = {}
        self._admissions = admissions

    def arguments(self) -> list[Any]:
        """Return the arguments of ``ai_admit`` but for its first four."""
        reservations = list(map(_reservation_of, self._admissions))
        places = self._places(reservations)
        gates = [self._gates.setdefault(_gate_of(each), len(self._gates) + 1) for each in self._admissions]
        tenants = [self._tenants.setdefault(each.tenant_id, len(self._tenants) + 1) for each in reservations]
        claims, digests, expiries = [], [], []
        for admission in self._admissions:
            claim = admission.claim
            claims.append(0 if claim is None else self._claims.setdefault(claim.claim_id, len(self._claims) + 1))
            digests.append(None if claim is None else claim.body_digest)
            expiries.append(None if claim is None else claim.expires_at)
        return [
            list({each.billing_period for each in reservations}),
            *zip(*self._keys, strict=True),
            *zip(*self._gates, strict=True),
            list(self._tenants),
            list(self._claims),
            *zip(*map(msgspec.structs.astuple, reservations), strict=True),
            gates,
            tenants,
            *zip(*places, strict=True),
            [admission.is_first for admission in self._admissions],
            claims,
            digests,
            expiries,
        ]

    def _places(self, reservations: Sequence[Reservation]) -> list[tuple[int, int, int, int]]:
        """Return, for each attempt, the places of its tenant's, feature's, key's and user's budgets."""
        known: dict[ChargedTo, tuple[int, int, int, int]] = {}
        places = []
        for reservation in reservations:
            caller = charged_to(reservation)
            place = known.get(caller)
            if place is None:
                tenant, feature, key, *user = (
                    self._keys.setdefault(key, len(self._keys) + 1) for key in budget_keys(*caller)
                )
                place = known[caller] = (tenant, feature, key, user[0] if user else 0)
            places.append(place)
        return places

    def refusal(self, admission: Admission, row: Any) -> Replay | TollhouseError:
        """Return what a row of ``ai_admit`` tells an attempt."""
        reservation = admission.reservation
        match row["verdict"]:
            case "inactive":
                return refusals.inactive(reservation)
            case "expired":
                return refusals.expired(reservation, row["subject"])
            case "disabled":
                return refusals.disabled(reservation)
            case "tier":
                return refusals.not_in_tier(reservation, row["subject"])
            case "mismatch":
                return refusals.mismatch()
            case "lost":
                return refusals.lost()
            case "in_flight":
                return refusals.in_flight()
            case "kept":
                return Replay(row["sealed"], row["subject"])
            case "limited":
                return refusals.rate_limited(reservation, row["amount"] / _US_PER_S)
            case "budget":
                key = list(self._keys)[row["budget"] - 1]
                return refusals.budget_exceeded(key, reservation.ceiling_nano_usd, row["amount"], row["cap"])
            case verdict:
                raise AssertionError(f"ai_admit gave the verdict {verdict}")
