"""Limits on SQLite: one process owns the file, and so its buckets are in its memory.

What a restart forgets is a bucket that counts as full. Limits of single tenants, users, features and keys are read from
the database in each transaction. Calls are counted while they run, once a limit on that has been seen to hold; those
that ran already are then counted from their reservations.
"""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from tollhouse.kit.clock import Clock
from tollhouse.limits.bucket import UNITS, drained, refusal
from tollhouse.limits.model import OWN_FIELDS, Limit, LimitKey, OwnLimit, Refused, Rules, Standing, limit_keys
from tollhouse.storage.database import Transaction

_US_PER_S = 1_000_000
# Buckets from which nothing is taken any more say nothing; they are dropped once so many are held.
_SWEEP_AT = 20_000

_ANY_OWN = "SELECT EXISTS (SELECT 1 FROM ai_limits)"
_OWN = " UNION ALL ".join(
    f"SELECT tenant_id, scope, scope_id, {', '.join(OWN_FIELDS)} FROM ai_limits "  # noqa: S608 - constants
    f"WHERE tenant_id = {tenant_id} AND scope = '{scope}' AND scope_id = {scope_id}"
    for tenant_id, scope, scope_id in (
        ("?1", "tenant", "''"),
        ("?1", "user", "?2"),
        ("?1", "feature", "?3"),
        ("''", "key", "?4"),
    )
)
_RUNNING = "SELECT request_id, tenant_id, user_id, feature_slug, key_id FROM ai_reservations WHERE state = 'open'"

Attempt = tuple[str, int]
"""A request's id, and which of its attempts."""
LimitedBy = tuple[str, str, str, str]
"""What a call's limits follow from: the arguments of ``limit_keys``."""


class Ended(NamedTuple):
    """An attempt that runs no more.

    Attributes:
        used: how many tokens it used; None if nobody knows, and all that it took stays taken.
    """

    attempt: Attempt
    limited_by: LimitedBy
    used: int | None


class _Bucket:
    """What is taken of one key's calls and tokens, and at which rates that drains."""

    __slots__ = ("at_us", "requests_per_minute", "requests_taken", "tokens_per_minute", "tokens_taken")

    def __init__(self, now_us: int) -> None:
        self.at_us = now_us
        self.requests_taken = self.requests_per_minute = self.tokens_taken = self.tokens_per_minute = 0

    def drain(self, now_us: int) -> None:
        elapsed_us = now_us - self.at_us
        self.requests_taken = drained(self.requests_taken, self.requests_per_minute, elapsed_us)
        self.tokens_taken = drained(self.tokens_taken, self.tokens_per_minute, elapsed_us)
        self.at_us = now_us

    @property
    def is_empty(self) -> bool:
        return not (self.requests_taken or self.tokens_taken)

    def state(self) -> tuple[int, int, int]:
        return self.at_us, self.requests_taken, self.tokens_taken

    def restore(self, state: tuple[int, int, int]) -> None:
        self.at_us, self.requests_taken, self.tokens_taken = state


class Held(NamedTuple):
    """A limit that holds for a call, with where it stands."""

    key: LimitKey
    limit: Limit
    bucket: _Bucket


class Limiter:
    """Everybody's buckets, and which calls run.

    Attributes:
        running: how many calls run of each key; None until a limit on that may hold: most know no such limit, and need
            not count.
        tokens: what the attempts that run have taken from buckets of tokens.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules = rules
        self.running: dict[LimitKey, int] | None = None
        self.tokens: dict[Attempt, int] = {}
        self._clock = clock
        self._buckets: dict[LimitKey, _Bucket] = {}
        self._attempts: dict[str, int] = {}
        self._sweep_at = _SWEEP_AT

    @property
    def wants_ends(self) -> bool:
        """Whether ``end`` has to be told of attempts that end."""
        return self.running is not None or bool(self.tokens)

    def begin(self, transaction: Transaction) -> "BatchLimits":
        """Return what decides on the admissions of a transaction."""
        if len(self._buckets) >= self._sweep_at:
            self._sweep(self.now_us())
        return BatchLimits(self, transaction)

    def end(self, transaction: Transaction, ended: Sequence[Ended]) -> None:
        """Take note of attempts that end in a transaction: they run no more, and give back the tokens left over."""
        undo = _Undo(self)
        transaction.on_rollback(undo)
        more: dict[LimitKey, int] = {}
        for attempt, limited_by, used in ended:
            keys = limit_keys(*limited_by)
            if self.running is not None:
                self.count(keys, attempt, -1)
                undo.counted.append((keys, attempt, -1))
            taken = self.tokens.pop(attempt, None)
            if taken is None:
                continue
            undo.tokens[attempt] = taken
            if used is not None:
                for key in keys:
                    more[key] = more.get(key, 0) + used - taken
        now_us = self.now_us()
        for key, tokens in more.items():
            bucket = self._buckets.get(key)
            if bucket is not None and bucket.tokens_per_minute:
                undo.keep(bucket)
                bucket.drain(now_us)
                # What came on top of what was taken is owed.
                bucket.tokens_taken = max(bucket.tokens_taken + tokens * UNITS, 0)

    def watch(self, transaction: Transaction) -> None:
        """Count the calls that run from now on, those that run already among them."""
        if self.running is None:
            open_now = transaction.connection.execute(_RUNNING).fetchall()
            # What the transaction has ended is not counted: should it be undone, the count begins anew.
            transaction.on_rollback(self._watch_no_more)
            self.running = {}
            for request_id, *limited_by in open_now:
                self.count(limit_keys(*limited_by), (request_id, 0), 1)

    def _watch_no_more(self) -> None:
        self.running = None
        self._attempts.clear()

    def count(self, keys: Sequence[LimitKey], attempt: Attempt, change: int) -> None:
        """Count an attempt that begins or ends to run; a call runs once, however many of its attempts do."""
        running = self.running
        assert running is not None
        request_id = attempt[0]
        attempts = self._attempts.get(request_id, 0) + change
        if attempts:
            self._attempts[request_id] = attempts
        else:
            del self._attempts[request_id]
        if attempts != max(change, 0):
            return
        for key in keys:
            count = running.get(key, 0) + change
            if count:
                running[key] = count
            else:
                del running[key]

    def bucket(self, key: LimitKey, limit: Limit, now_us: int) -> _Bucket:
        """Return a key's bucket, drained until now by its present rates."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(now_us)
        bucket.requests_per_minute = limit.requests_per_minute
        bucket.tokens_per_minute = limit.tokens_per_minute
        bucket.drain(now_us)
        return bucket

    def now_us(self) -> int:
        return int(self._clock.monotonic_s() * _US_PER_S)

    def _sweep(self, now_us: int) -> None:
        for bucket in self._buckets.values():
            bucket.drain(now_us)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_empty}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._buckets))


class _Undo:
    """What a transaction changed in memory; called, it puts all of it back."""

    __slots__ = ("_limiter", "attempts", "buckets", "counted", "tokens")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self.buckets: dict[_Bucket, tuple[int, int, int]] = {}
        self.counted: list[tuple[Sequence[LimitKey], Attempt, int]] = []
        self.tokens: dict[Attempt, int] = {}
        self.attempts: list[Attempt] = []

    def keep(self, bucket: _Bucket) -> None:
        """Remember a bucket as it is before its first change."""
        if bucket not in self.buckets:
            self.buckets[bucket] = bucket.state()

    def __call__(self) -> None:
        for bucket, state in self.buckets.items():
            bucket.restore(state)
        for keys, attempt, change in reversed(self.counted):
            self._limiter.count(keys, attempt, -change)
        for attempt in self.attempts:
            del self._limiter.tokens[attempt]
        self._limiter.tokens.update(self.tokens)


class BatchLimits:
    """The limits of the calls that one transaction decides on."""

    def __init__(self, limiter: Limiter, transaction: Transaction) -> None:
        self._limiter = limiter
        self._transaction = transaction
        self._connection: sqlite3.Connection = transaction.connection
        self._now_us = limiter.now_us()
        self._has_own = bool(self._connection.execute(_ANY_OWN).fetchone()[0])
        self._are_tenants_alone = not self._has_own and limiter.rules.limits_tenants_alone
        self._held: dict[tuple[LimitedBy, str], tuple[Held, ...]] = {}
        self._undo: _Undo | None = None
        if self._has_own or limiter.rules.limits_running:
            limiter.watch(transaction)

    def of(self, limited_by: LimitedBy, tier: str) -> tuple[Held, ...]:
        """Return the limits that hold for a caller whose tenant has a tier."""
        held = self._held.get((limited_by, tier))
        if held is None:
            held = self._held[limited_by, tier] = tuple(self._find(limited_by, tier))
        return held

    def _find(self, limited_by: LimitedBy, tier: str) -> list[Held]:
        own: dict[LimitKey, OwnLimit] = {}
        if self._has_own:
            for tenant_id, scope, scope_id, *values in self._connection.execute(_OWN, limited_by):
                own[LimitKey(tenant_id, scope, scope_id)] = OwnLimit(*values)
        keys = limit_keys(*limited_by)
        held = []
        for key in keys[:1] if self._are_tenants_alone else keys:
            limit = self._limiter.rules.of(key.scope, tier)
            if key in own:
                limit = own[key].over(limit)
            if limit:
                held.append(Held(key, limit, self._limiter.bucket(key, limit, self._now_us)))
        return held

    def refusal(self, held: Sequence[Held], tokens: int) -> Refused | None:
        """Return why a call does not pass, by the limit that has it wait longest; None if it passes all of them."""
        longest: Refused | None = None
        for key, limit, bucket in held:
            if (
                not limit.tokens_per_minute | limit.concurrent_calls
                and bucket.requests_taken <= (limit.burst - 1) * UNITS
            ):
                # It limits calls by the minute alone, and there is room: what most calls are done with.
                continue
            refused = refusal(key, limit, tokens, bucket.requests_taken, bucket.tokens_taken, self._running(key))
            if refused is None:
                continue
            if not refused.wait_us:
                return refused
            if longest is None or refused.wait_us > longest.wait_us:
                longest = refused
        return longest

    def take(
        self, held: Sequence[Held], limited_by: LimitedBy, attempt: Attempt, tokens: int, *, is_first: bool
    ) -> None:
        """Take a call that was admitted out of its limits.

        A further attempt of a call is no further call; but what the attempt before gave back, it takes again.
        """
        limiter = self._limiter
        if not held and limiter.running is None:
            return
        undo = self._undo
        if undo is None:
            undo = self._undo = _Undo(limiter)
            self._transaction.on_rollback(undo)
        takes_tokens = False
        for _, limit, bucket in held:
            undo.keep(bucket)
            if limit.requests_per_minute and is_first:
                bucket.requests_taken += UNITS
            if limit.tokens_per_minute:
                bucket.tokens_taken += tokens * UNITS
                takes_tokens = True
        if takes_tokens:
            limiter.tokens[attempt] = tokens
            undo.attempts.append(attempt)
        if limiter.running is not None:
            keys = limit_keys(*limited_by)
            limiter.count(keys, attempt, 1)
            undo.counted.append((keys, attempt, 1))

    def standing(self, held: Sequence[Held]) -> tuple[Standing, ...]:
        """Return where limits stand now."""
        return tuple(
            [
                Standing(
                    key,
                    limit,
                    bucket.requests_taken,
                    bucket.tokens_taken,
                    self._running(key) if limit.concurrent_calls else 0,
                )
                for key, limit, bucket in held
            ]
        )

    def _running(self, key: LimitKey) -> int:
        running = self._limiter.running
        return 0 if running is None else running.get(key, 0)
