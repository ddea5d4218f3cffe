"""Admission on SQLite: each batch is decided call by call, in order, on what the transaction reads.

Nothing is cached between batches, so a gate that was closed, a cap that was lowered or a key of another instance's
making is seen by the first admission after its commit.
"""

import sqlite3
from collections.abc import Sequence

from tollhouse.budgets import sqlite as budgets
from tollhouse.budgets.model import BudgetKey, Reservation, limited_by_of
from tollhouse.errors import TollhouseError
from tollhouse.gate import refusals
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.idempotency import sqlite as idempotency
from tollhouse.idempotency.model import Claim, Kept
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.limits.sqlite import Limiter
from tollhouse.storage.database import Transaction
from tollhouse.storage.sqlite import SqliteDatabase
from tollhouse.tenants.model import GateState
from tollhouse.tenants.sqlite import gate_state

Outcome = Admitted | Replay | TollhouseError


class SqliteGate:
    """Decides batches of admissions in the writer's transaction."""

    def __init__(self, clock: Clock, limiter: Limiter) -> None:
        self._clock = clock
        self._limiter = limiter

    def handle_on(self, database: SqliteDatabase) -> None:
        """Have a SQLite database admit."""
        database.handle(Admission, self._admit_batch)

    def _admit_batch(self, transaction: Transaction, admissions: Sequence[Admission]) -> list[Outcome]:
        batch = _Batch(transaction, self._clock, self._limiter)
        outcomes = [batch.decide(admission) for admission in admissions]
        batch.write()
        return outcomes


class _Batch:
    """The decisions of one transaction: what it has read, and what it will write."""

    def __init__(self, transaction: Transaction, clock: Clock, limiter: Limiter) -> None:
        self._connection: sqlite3.Connection = transaction.connection
        self._now = utc_text(clock.now_ms())
        self._limits = limiter.begin(transaction)
        self._budgets = budgets.BudgetReader(self._connection)
        self._gates: dict[tuple[str, str], GateState | None] = {}
        self._claims: dict[str, tuple[Claim, str]] = {}
        self._amounts_nano_usd: dict[BudgetKey, int] = {}
        self._reservations: list[Reservation] = []

    def decide(self, admission: Admission) -> Outcome:
        """Gate, then a kept answer, then the limits, then the budgets: the order of the public contract."""
        reservation = admission.reservation
        gate = self._gate(reservation.tenant_id, reservation.feature_slug)
        refusal = self._closed(reservation, gate, admission.tiers)
        if refusal is not None:
            return refusal
        assert gate is not None
        if admission.claim is not None:
            kept = self._kept(admission.claim)
            if kept is not None:
                return kept
        limited_by = limited_by_of(reservation)
        held = self._limits.of(limited_by, gate.tier)
        if held and admission.is_first:
            refused = self._limits.refusal(held, admission.tokens)
            if refused is not None:
                return refusals.limited(refused, admission.tokens, self._limits.standing(held))
        refusal = self._reserve(reservation, gate.budget_nano_usd)
        if refusal is not None:
            return refusal
        # Taken last, so that a refusal uses nothing up.
        attempt = (reservation.request_id, reservation.attempt)
        self._limits.take(held, limited_by, attempt, admission.tokens, is_first=admission.is_first)
        if admission.claim is not None:
            self._claims[admission.claim.claim_id] = (admission.claim, reservation.request_id)
        self._reservations.append(reservation)
        return Admitted(standing=self._limits.standing(held))

    def write(self) -> None:
        """Make the batch's reservations and claims part of the transaction."""
        if self._reservations:
            budgets.reserve(self._connection, self._amounts_nano_usd, self._reservations)
            idempotency.take(self._connection, list(self._claims.values()))

    def _gate(self, tenant_id: str, feature_slug: str) -> GateState | None:
        key = (tenant_id, feature_slug)
        if key not in self._gates:
            self._gates[key] = gate_state(self._connection, tenant_id, feature_slug)
        return self._gates[key]

    def _closed(
        self, reservation: Reservation, gate: GateState | None, tiers: frozenset[str] | None
    ) -> TollhouseError | None:
        if gate is None or not gate.is_active:
            return refusals.inactive(reservation)
        if gate.expires_at is not None and gate.expires_at <= self._now:
            return refusals.expired(reservation, gate.expires_at)
        if not gate.is_feature_enabled:
            return refusals.disabled(reservation)
        if tiers is not None and gate.tier not in tiers:
            return refusals.not_in_tier(reservation, gate.tier)
        return None

    def _kept(self, claim: Claim) -> Outcome | None:
        """Answer a claim from what is on record; None when it is free."""
        taken = self._claims.get(claim.claim_id)
        if taken is not None:
            return _repeated(claim, Kept(taken[0].body_digest, taken[1], None, claim.expires_at))
        kept = idempotency.find(self._connection, claim.claim_id)
        is_in_flight = kept is not None and kept.sealed_answer is None and not kept.is_lost
        if kept is None or (kept.expires_at <= self._now and not is_in_flight):
            return None
        return _repeated(claim, kept)

    def _reserve(self, reservation: Reservation, tenant_cap_nano_usd: int) -> TollhouseError | None:
        """Take the ceiling out of every budget it counts against, or out of none."""
        ceiling = reservation.ceiling_nano_usd
        charged = self._budgets.charged(reservation, tenant_cap_nano_usd)
        for key, budget in charged:
            if ceiling > budget.left_nano_usd:
                return refusals.budget_exceeded(key, ceiling, budget.left_nano_usd, budget.cap_nano_usd)
        for key, budget in charged:
            budget.reserved_nano_usd += ceiling
            self._amounts_nano_usd[key] = self._amounts_nano_usd.get(key, 0) + ceiling
        return None


def _repeated(claim: Claim, kept: Kept) -> Outcome:
    if kept.body_digest != claim.body_digest:
        return refusals.mismatch()
    if kept.is_lost:
        return refusals.lost()
    if kept.sealed_answer is None:
        return refusals.in_flight()
    return Replay(kept.sealed_answer, kept.request_id)
