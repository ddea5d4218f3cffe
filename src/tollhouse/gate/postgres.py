"""Admission on PostgreSQL: a batch is decided by the database, in one statement (storage/functions/admit.sql).

Gates, caps, claims and limits are read and written in the transaction that reserves, under the locks of the
budgets: what one instance admits, every other one sees.
"""

from collections.abc import Callable, Mapping, Sequence
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
from tollhouse.kit.scopes import Scope
from tollhouse.limits.model import Limit, LimitKey, Refused, Rules, Standing
from tollhouse.storage.postgres.failures import epoch_lost, outdated

_ARGUMENTS = (
    *("bigint", "text"),
    *("text[]", "text[]", *["bigint[]"] * 4),
    *["text[]"] * 5,
    *("int[]", *["bigint[]"] * 4),
    *["text[]"] * 4,
    *("text[]", "int[]", *["text[]"] * 8, "bigint[]", "text[]", "text[]"),
    *["int[]"] * 5,
    *("bool[]", "bigint[]", "int[]", "text[]", "text[]"),
)
_ADMIT = "SELECT place, verdict, subject, amount, budget, cap, sealed, standing FROM ai_admit({})".format(  # noqa: S608 - constants
    ", ".join(f"${place}::{argument}" for place, argument in enumerate(_ARGUMENTS, start=1))
)
_ADMITTED = """
SELECT r.request_id FROM ai_reservations r
  JOIN unnest($1::text[], $2::int[]) AS e (request_id, attempt) USING (request_id, attempt)
 WHERE r.state = 'open' AND r.epoch = $3"""

_NO_LIMITS: tuple[Sequence[int], ...] = ([],) * 5
_Places = tuple[int, int, int, int]
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
        rules: Rules,
        give_back: Callable[[Admission], None],
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._give_back = give_back
        # "" is what whoever has no limits of a tier of their own has; with all scopes, there are four rows of it.
        self._base = {scope: msgspec.structs.astuple(limit) if limit else () for scope, limit in rules.base.items()}
        by_tier = [
            (name, scope, *msgspec.structs.astuple(limit))
            for name, limits in rules.tiers.items()
            for scope, limit in limits.items()
        ]
        self._tiers = [list(column) for column in zip(*by_tier, strict=True)]

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
        batch = _Batch(operations, self._base)
        rows = await connection.fetch(
            _ADMIT,
            epoch,
            utc_text(self._clock.now_ms()),
            *self._tiers,
            *batch.arguments(),
            timeout=timeout_s,
        )
        refusals = []
        for row in rows:
            if row["place"]:
                refusals.append(row)
            else:
                batch.note(row)
        outcomes: list[Any] = [Admitted(epoch, self._lease.holds, standing) for standing in batch.standings()]
        for row in refusals:
            place = row["place"] - 1
            outcomes[place] = batch.refusal(place, row)
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

    def __init__(self, admissions: Sequence[Admission], base: Mapping[Scope, tuple[int, ...]]) -> None:
        """``base`` has the limit of each scope that the configuration limits, whatever the tier, as a tuple."""
        self._keys: dict[BudgetKey, int] = {}
        self._gates: dict[tuple[str, str, str | None], int] = {}
        self._claims: dict[str, int] = {}
        self._admissions = admissions
        self._base = base
        self._places: list[_Places] = []
        self._owners: list[LimitKey] = []
        self._standing: dict[LimitKey, Standing] = {}

    def arguments(self) -> list[Any]:
        """Return the arguments of ``ai_admit`` but for those that are the same for every batch."""
        reservations = list(map(_reservation_of, self._admissions))
        self._places = self._find(reservations)
        gates = [self._gates.setdefault(_gate_of(each), len(self._gates) + 1) for each in self._admissions]
        claims, digests, expiries = [], [], []
        for admission in self._admissions:
            claim = admission.claim
            claims.append(0 if claim is None else self._claims.setdefault(claim.claim_id, len(self._claims) + 1))
            digests.append(None if claim is None else claim.body_digest)
            expiries.append(None if claim is None else claim.expires_at)
        return [
            list({each.billing_period for each in reservations}),
            *zip(*self._keys, strict=True),
            *self._limits(),
            *zip(*self._gates, strict=True),
            list(self._claims),
            *zip(*map(msgspec.structs.astuple, reservations), strict=True),
            gates,
            *zip(*self._places, strict=True),
            [admission.is_first for admission in self._admissions],
            [admission.tokens for admission in self._admissions],
            claims,
            digests,
            expiries,
        ]

    def _limits(self) -> tuple[Sequence[int], ...]:
        """Return the places of the keys that the base of the rules limits, each owner's once, and those limits."""
        self._owners = [LimitKey(key.tenant_id, key.scope, key.scope_id) for key in self._keys]
        limited: dict[LimitKey, tuple[int, ...]] = {}
        for place, owner in enumerate(self._owners, start=1):
            limit = self._base[owner.scope]
            if limit:
                limited.setdefault(owner, (place, *limit))
        return tuple(zip(*limited.values(), strict=True)) if limited else _NO_LIMITS

    def note(self, row: Any) -> None:
        """Take where a limit stands, as ``ai_admit`` tells."""
        owner = self._owners[row["budget"] - 1]
        *limit, requests_taken, tokens_taken, running = row["standing"]
        self._standing[owner] = Standing(owner, Limit(*limit), requests_taken, tokens_taken, running)

    def standings(self) -> list[tuple[Standing, ...]]:
        """Return, for each attempt, where its limits stand."""
        if not self._standing:
            return [()] * len(self._places)
        known = {places: self._standing_of(places) for places in set(self._places)}
        return [known[places] for places in self._places]

    def _standing_of(self, places: _Places) -> tuple[Standing, ...]:
        found = (self._standing.get(self._owners[place - 1]) for place in places if place)
        return tuple([each for each in found if each is not None])

    def _find(self, reservations: Sequence[Reservation]) -> list[_Places]:
        """Return, for each attempt, the places of its tenant's, feature's, key's and user's budgets."""
        known: dict[ChargedTo, _Places] = {}
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

    def refusal(self, place: int, row: Any) -> Replay | TollhouseError:
        """Return what a row of ``ai_admit`` tells an attempt."""
        reservation = self._admissions[place].reservation
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
                owner = self._owners[row["budget"] - 1]
                refused = Refused(owner, row["subject"], self._standing[owner].limit, row["amount"])
                standing = self._standing_of(self._places[place])
                return refusals.limited(refused, self._admissions[place].tokens, standing)
            case "budget":
                key = list(self._keys)[row["budget"] - 1]
                return refusals.budget_exceeded(key, reservation.ceiling_nano_usd, row["amount"], row["cap"])
            case verdict:
                raise AssertionError(f"ai_admit gave the verdict {verdict}")
