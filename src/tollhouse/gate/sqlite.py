"""Admission on SQLite: each batch is decided call by call, in order, on what the transaction reads.

Nothing is cached between batches, so a gate that was closed, a cap that was lowered or a key of another instance's
making is seen by the first admission after its commit.
"""

import math
import sqlite3
from collections.abc import Sequence

from tollhouse.budgets import sqlite as budgets
from tollhouse.budgets.model import BudgetKey, Reservation
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    FeatureDisabled,
    IdempotencyInFlight,
    IdempotencyMismatch,
    ModuleExpired,
    ModuleInactive,
    RateLimited,
    TollhouseError,
)
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.gate.ratelimit import RateLimiter
from tollhouse.idempotency import sqlite as idempotency
from tollhouse.idempotency.model import Claim, Kept
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.money import usd
from tollhouse.storage.database import Database, Transaction
from tollhouse.tenants.model import GateState
from tollhouse.tenants.sqlite import gate_state

Outcome = Admitted | Replay | TollhouseError
_ADMITTED = Admitted()


class SqliteGate:
    """Decides batches of admissions in the writer's transaction."""

    def __init__(self, clock: Clock, rate_limiter: RateLimiter) -> None:
        self._clock = clock
        self._rate_limiter = rate_limiter

    def handle_on(self, database: Database) -> None:
        """Have a SQLite database admit."""
        database.handle(Admission, self._admit_batch)

    def _admit_batch(self, transaction: Transaction, admissions: Sequence[Admission]) -> list[Outcome]:
        batch = _Batch(transaction, self._clock, self._rate_limiter)
        outcomes = [batch.decide(admission) for admission in admissions]
        batch.write()
        return outcomes


class _Batch:
    """The decisions of one transaction: what it has read, and what it will write."""

    def __init__(self, transaction: Transaction, clock: Clock, rate_limiter: RateLimiter) -> None:
        self._transaction = transaction
        self._connection: sqlite3.Connection = transaction.connection
        self._now = utc_text(clock.now_ms())
        self._now_s = clock.monotonic_s()
        self._rate_limiter = rate_limiter
        self._budgets = budgets.BudgetReader(self._connection)
        self._gates: dict[tuple[str, str], GateState | None] = {}
        self._claims: dict[str, tuple[Claim, str]] = {}
        self._amounts_nano_usd: dict[BudgetKey, int] = {}
        self._reservations: list[Reservation] = []

    def decide(self, admission: Admission) -> Outcome:
        """Gate, then a kept answer, then the rate limit, then the budgets: the order of the public contract."""
        reservation = admission.reservation
        gate = self._gate(reservation.tenant_id, reservation.feature_slug)
        refusal = self._closed(reservation, gate)
        if refusal is not None:
            return refusal
        assert gate is not None
        if admission.claim is not None:
            kept = self._kept(admission.claim)
            if kept is not None:
                return kept
        if admission.is_first:
            wait_s = self._rate_limiter.wait_s(reservation.tenant_id, self._now_s)
            if wait_s:
                return _rate_limited(reservation, wait_s)
        refusal = self._reserve(reservation, gate.budget_nano_usd)
        if refusal is not None:
            return refusal
        if admission.is_first:
            # Taken last, so that a refusal uses nothing up.
            self._rate_limiter.take(reservation.tenant_id, self._now_s)
            self._transaction.on_rollback(lambda: self._rate_limiter.give_back(reservation.tenant_id))
        if admission.claim is not None:
            self._claims[admission.claim.claim_id] = (admission.claim, reservation.request_id)
        self._reservations.append(reservation)
        return _ADMITTED

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

    def _closed(self, reservation: Reservation, gate: GateState | None) -> TollhouseError | None:
        tenant_id = reservation.tenant_id
        if gate is None or not gate.is_active:
            return ModuleInactive(
                f"the AI module of tenant {tenant_id} is not active; an administrator can activate it"
            )
        if gate.expires_at is not None and gate.expires_at <= self._now:
            return ModuleExpired(f"the AI module of tenant {tenant_id} expired at {gate.expires_at}")
        if not gate.is_feature_enabled:
            return FeatureDisabled(f"the feature {reservation.feature_slug!r} is switched off for tenant {tenant_id}")
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
                return _budget_exceeded(key, ceiling, budget.left_nano_usd, budget.cap_nano_usd)
        for key, budget in charged:
            budget.reserved_nano_usd += ceiling
            self._amounts_nano_usd[key] = self._amounts_nano_usd.get(key, 0) + ceiling
        return None


def _repeated(claim: Claim, kept: Kept) -> Outcome:
    if kept.body_digest != claim.body_digest:
        return IdempotencyMismatch(
            "this Idempotency-Key was used with another body; send the same body, or a new key for a new call"
        )
    if kept.is_lost:
        return CallTimeout(
            "an earlier call with this Idempotency-Key may have been billed, and its answer was lost; to have another "
            "call made, send a new key"
        )
    if kept.sealed_answer is None:
        return IdempotencyInFlight(
            "a call with this Idempotency-Key is being answered now; try again shortly to get its answer",
            retry_after_s=1,
        )
    return Replay(kept.sealed_answer, kept.request_id)


def _rate_limited(reservation: Reservation, wait_s: float) -> RateLimited:
    return RateLimited(
        f"tenant {reservation.tenant_id} has reached its rate limit; try again in {math.ceil(wait_s)} s",
        retry_after_s=wait_s,
    )


def _budget_exceeded(key: BudgetKey, ceiling: int, left: int, cap: int) -> BudgetExceeded:
    return BudgetExceeded(
        f"this call could cost up to ${usd(ceiling):f}, but {key.describe()} has ${usd(max(left, 0)):f} left of "
        f"its ${usd(cap):f} for {key.billing_period}; lower max_tokens, or have the budget raised"
    )
