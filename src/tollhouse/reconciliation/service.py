"""Resolving what is unknown: each attempt is entered once, as an adjustment, with its money in one transaction."""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
import sqlalchemy as sa
import structlog

from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.service import SYSTEM
from tollhouse.budgets.model import Reservation
from tollhouse.errors import InternalError, InvalidRequest
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.model import Settlement
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation import store
from tollhouse.reconciliation.matching import known_name, match, merged, not_billed, skipped
from tollhouse.reconciliation.model import LedgerUsage, Match, PriceOf, Resolution, UsageBucket, combined
from tollhouse.storage.database import Database

_LOG = structlog.get_logger("tollhouse.reconciliation")
_MS_PER_HOUR = 3_600_000
_AT_ONCE = 500

T = TypeVar("T", store.Billed, Reservation)


class Reconciled(msgspec.Struct, frozen=True):
    """What a run found and did.

    Attributes:
        matches: each bucket beside the ledger, by time.
        resolved: how many attempts were entered; of a dry run, how many would have been.
        cost_nano_usd: what they cost together.
        taken: how many were resolved by somebody else meanwhile, or refused by the ledger.
    """

    matches: list[Match]
    resolved: int
    cost_nano_usd: int
    taken: int


class Reconciliation:
    """Compares the ledger with what providers say, and frees what nobody claims."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        prices: Callable[[], Awaitable[PriceOf]],
        upstream_names: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Bind it to a ledger.

        Args:
            prices: asked only when a price is needed, since compiling the catalogue takes about a second.
            upstream_names: by provider: each configured model's name there.
        """
        self._database = database
        self._clock = clock
        self._prices = prices
        self._upstream_names = upstream_names
        self._one_at_a_time = asyncio.Lock()

    async def reconcile(
        self, provider: str, buckets: Sequence[UsageBucket], *, actor: str, dry_run: bool = False
    ) -> Reconciled:
        """Match a provider's usage with the ledger, and resolve what it explains.

        Args:
            actor: the id of the key that asks for it.
            dry_run: change nothing, and tell what would be done.

        Raises:
            InvalidRequest: no such provider is configured, or the buckets overlap.
            Unavailable: the database cannot be read or written; what was resolved stays so.
        """
        names = self._upstream_names.get(provider)
        if names is None:
            known = ", ".join(sorted(self._upstream_names)) or "none"
            raise InvalidRequest(f"provider: no provider {provider[:100]!r} is configured; configured are: {known}")
        if not buckets:
            raise InvalidRequest("buckets: expected at least one")
        async with self._one_at_a_time:
            matches = await self._matches(provider, names, buckets)
            found = [resolution for each in matches for resolution in each.resolutions]
            done = found if dry_run else await self._enter(found)
            cost = sum(resolution.cost_nano_usd for resolution in done)
            result = Reconciled(matches, len(done), cost, len(found) - len(done))
            if not dry_run:
                await self._record("ledger.reconciled", actor, provider, _counts(result))
        return result

    async def expire(self, older_than_hours: int) -> int:
        """Free the attempts of unknown outcome that were admitted longer ago; return how many.

        Raises:
            Unavailable: the database cannot be read or written.
        """
        now_ms = self._clock.now_ms()
        before = utc_text(now_ms - older_than_hours * _MS_PER_HOUR)
        expired = 0
        async with self._one_at_a_time:
            while held := await self._database.read(lambda view: store.held_since(view, before, _AT_ONCE)):
                freed = await self._enter([not_billed(reservation) for reservation in held], "expired")
                expired += len(freed)
                if not freed:
                    break
            if expired:
                _LOG.warning("calls of unknown outcome were not claimed in time, and cost nothing", calls=expired)
                counted = {"resolved": expired, "unknown_hold_hours": older_than_hours}
                await self._record("ledger.expired", SYSTEM, "", counted)
        return expired

    async def _matches(self, provider: str, names: Mapping[str, str], buckets: Sequence[UsageBucket]) -> list[Match]:
        start_ms = min(bucket.start_ms for bucket in buckets)
        end_ms = max(bucket.end_ms for bucket in buckets)
        boundaries_ms = {instant for bucket in buckets for instant in (bucket.start_ms, bucket.end_ms)}

        def look(view: sa.Connection) -> tuple[list[store.Billed], list[Reservation], list[Reservation]]:
            # On one snapshot: a call that ends meanwhile is either under way or billed.
            return (
                store.billed(view, provider, start_ms, end_ms, boundaries_ms),
                *store.held(view, provider, start_ms, end_ms),
            )

        found = await self._database.read(look)
        billed = _Timeline(found[0], names, lambda each: each.begins)
        unknown, under_way = (_Timeline(held, names, lambda each: each.created_at) for held in found[1:])
        known = {*names.values(), *billed.names, *unknown.names}
        try:
            in_order = merged(
                msgspec.structs.replace(bucket, model=known_name(bucket.model, known)) for bucket in buckets
            )
        except ValueError as error:
            raise InvalidRequest(f"buckets: {error}") from None
        price_of = await self._prices() if unknown.names else _no_price
        now_ms = self._clock.now_ms()
        matches = []
        for bucket in in_order:
            if bucket.end_ms > now_ms:
                matches.append(skipped(bucket, "it is not over yet"))
            elif under_way.during(bucket):
                matches.append(skipped(bucket, "calls of that time are still under way"))
            else:
                matches.append(match(bucket, _summed(billed.during(bucket)), unknown.during(bucket), price_of))
        return matches

    async def _enter(self, resolutions: Sequence[Resolution], finish_reason: str | None = None) -> list[Resolution]:
        """Enter adjustments; return those whose attempt nobody else has resolved meanwhile."""
        entered = []
        for start in range(0, len(resolutions), _AT_ONCE):
            batch = resolutions[start : start + _AT_ONCE]
            now = utc_text(self._clock.now_ms())
            outcomes = await asyncio.gather(
                *(self._database.submit(_adjustment(each, finish_reason, now)) for each in batch),
                return_exceptions=True,
            )
            failed = []
            for resolution, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    failed.append((resolution.reservation, outcome))
                else:
                    entered.append(resolution)
            if failed:
                await self._raise_unless_taken(failed)
        return entered

    async def _raise_unless_taken(self, failed: Sequence[tuple[Reservation, BaseException]]) -> None:
        """Raise why an attempt could not be entered, unless somebody else has entered it."""
        reservations = [reservation for reservation, _ in failed]
        still_held = await self._database.read(lambda view: store.still_held(view, reservations))
        for reservation, failure in failed:
            # What the ledger refuses is logged there. It stays held, and must not keep the others from being entered.
            if (reservation.request_id, reservation.attempt) in still_held and not isinstance(failure, InternalError):
                raise failure

    async def _record(self, action: str, actor: str, target: str, counts: Mapping[str, object]) -> None:
        entry = AuditEntry(utc_text(self._clock.now_ms()), actor, action, "", target, None, counts)
        await self._database.write(lambda connection: audit.append(connection, entry))


class _Timeline(Generic[T]):
    """What is known of a provider's calls, by the model's name there and by time of admission."""

    def __init__(self, found: Iterable[T], names: Mapping[str, str], time_of: Callable[[T], str]) -> None:
        """``names`` is each configured model's name at the provider; another model has its own name there."""
        self._time_of: Callable[[T], str] = time_of
        self._by_name: dict[str, list[T]] = {}
        for each in sorted(found, key=time_of):
            self._by_name.setdefault(names.get(each.model, each.model), []).append(each)

    @property
    def names(self) -> Collection[str]:
        return self._by_name.keys()

    def during(self, bucket: UsageBucket) -> list[T]:
        """Return what belongs to a bucket."""
        found = self._by_name.get(bucket.model, [])
        if not found:
            return []
        # Times are cut after as many characters as the pieces of the ledger need; so are the bucket's.
        length = len(self._time_of(found[0]))
        first, after = (
            bisect_left(found, utc_text(instant_ms)[:length], key=self._time_of)
            for instant_ms in (bucket.start_ms, bucket.end_ms)
        )
        return found[first:after]


def _summed(pieces: Iterable[store.Billed]) -> LedgerUsage:
    requests, sharing, usage = 0, 0, Usage()
    for piece in pieces:
        requests += piece.requests
        sharing += piece.sharing
        usage = combined(usage, piece.usage)
    return LedgerUsage(requests, sharing, usage)


def _adjustment(resolution: Resolution, finish_reason: str | None, now: str) -> Settlement:
    was_billed = resolution.usage != Usage()
    return Settlement(
        # The row names the price that its own cost comes from, which may have changed since admission.
        reservation=msgspec.structs.replace(resolution.reservation, price_version=resolution.price_version),
        status="adjustment",
        usage=resolution.usage,
        usage_source=resolution.usage_source,
        cost_nano_usd=resolution.cost_nano_usd,
        finish_reason=finish_reason or ("reconciled" if was_billed else "unbilled"),
        latency_ms=0,
        created_at=now,
    )


def _no_price(_model: str) -> None:
    return None


def _counts(result: Reconciled) -> dict[str, object]:
    outcomes = [each.outcome for each in result.matches]
    return {
        "resolved": result.resolved,
        "cost_nano_usd": result.cost_nano_usd,
        "taken": result.taken,
        "differing": outcomes.count("differs"),
        "skipped": outcomes.count("skipped"),
        "from": utc_text(min(each.bucket.start_ms for each in result.matches)),
        "to": utc_text(max(each.bucket.end_ms for each in result.matches)),
    }
