"""The engine under the service, as the configuration names it: an embedded SQLite file, or PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from tollhouse.apps.duties import Duty
from tollhouse.budgets import store as budgets
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError, Unavailable
from tollhouse.gate.admission import Admission, Admitted
from tollhouse.gate.sqlite import SqliteGate
from tollhouse.keys.pepper import FilePepper, StoredPepper, pepper_path
from tollhouse.keys.service import Keyring, open_keyring
from tollhouse.kit.clock import Clock
from tollhouse.kit.scopes import Scope
from tollhouse.kit.waiting import is_set_within
from tollhouse.ledger import sqlite as sqlite_ledger
from tollhouse.ledger.service import Ledger
from tollhouse.limits.model import Limit, OwnLimit, Rules
from tollhouse.limits.sqlite import Limiter
from tollhouse.storage.database import Database
from tollhouse.storage.lock import DatabaseLock, Owner
from tollhouse.storage.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from tollhouse.instances.lease import Lease
    from tollhouse.storage.postgres.database import PostgresDatabase

_LOST_LOOKED_FOR_EVERY_S = 5.0
_KEYS_AGAIN_S = 0.5
# One may wait for a tenant's row while another keeps the lease.
_WORKER_CONNECTIONS = 2
_LOG = structlog.get_logger("tollhouse.start")


class Engine(msgspec.Struct, frozen=True):
    """An open database, with all that is done by its own means.

    Attributes:
        reserved: the same database for the service's own duties, which no number of requests can keep from it.
        duties: what has to run for as long as calls are taken.
        for_worker: returns the same database for a worker in this process, whose leases neither requests nor the
            service's duties can keep from it, nor it these.
        describe: tells commands on this machine where the process serves.
        is_in_touch: whether calls could be admitted now, as far as this process knows without asking.
    """

    database: Database
    ledger: Ledger
    keyring: Keyring
    reserved: Database
    for_worker: Callable[[], Database]
    duties: tuple[Duty, ...] = ()
    describe: Callable[[Owner], None] = lambda _: None
    is_in_touch: Callable[[], bool] = lambda: True


@asynccontextmanager
async def open_engine(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Engine]:
    """Open the configured database; raises StartError."""
    opened = _open_embedded if config.database.is_embedded else _open_cluster
    async with opened(config, secrets, clock) as engine:
        yield engine
        # What waits is written first: an instance that has left ends nothing any more.
        await engine.ledger.flush()


@asynccontextmanager
async def _open_embedded(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Engine]:
    """Own the file, migrated and recovered."""
    path = config.database.sqlite_path
    with DatabaseLock(path) as lock:
        database = SqliteDatabase(path)
        limiter = Limiter(limit_rules(config), clock)
        SqliteGate(clock, limiter).handle_on(database)
        sqlite_ledger.handle_on(database, limiter, thresholds(config))
        try:
            database.open()
            ledger = Ledger(database, clock)
            database.when_late(Admission, partial(_give_back, ledger))
            try:
                await ledger.recover()
                keyring = await open_keyring(database, secrets.pepper, FilePepper(pepper_path(path)))
            except Unavailable as error:
                raise StartError(
                    f"{path}: {error.message}. Expected a sound database on a disk with room; a damaged one is "
                    "restored from a backup"
                ) from error
            yield Engine(database, ledger, keyring, database, lambda: database, describe=lock.describe)
        finally:
            await database.close()


def _give_back(ledger: Ledger, admission: Admission, outcome: object) -> None:
    """Undo an admission that nobody has waited for, so that its call is not made."""
    if isinstance(outcome, Admitted):
        ledger.give_back(admission.reservation, admission.claim)


@asynccontextmanager
async def _open_cluster(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Engine]:
    """Join the instances that share a PostgreSQL database."""
    # Not on the way of those who run on SQLite: the drivers take a quarter of a second and ten megabytes.
    import asyncpg

    from tollhouse.instances.lease import Lease
    from tollhouse.instances.service import Membership
    from tollhouse.storage.postgres.control import shown

    settings = config.database
    lease = Lease(clock, settings.lease_s)
    rules = limit_rules(config)
    database, ledger = assemble_cluster(
        settings.url, clock, lease, rules, thresholds(config), timeout_s=settings.timeout_s
    )
    some_are_lost, keys_changed = asyncio.Event(), asyncio.Event()
    membership = Membership(
        database.dial, clock, lease, when_lost=some_are_lost.set, when_keys_changed=keys_changed.set
    )
    try:
        await database.open()
        try:
            keyring = await open_keyring(database.reserved, secrets.pepper, StoredPepper(database))
            await membership.join()
            await database.open_lanes()
        except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StartError(f"{shown(settings.url)}: cannot be used as a database: {error}") from error

        def is_in_touch() -> bool:
            return database.is_connected and lease.holds(lease.epoch)

        beating = asyncio.create_task(membership.keep())
        try:
            yield Engine(
                database,
                ledger,
                keyring,
                reserved=database.reserved,
                for_worker=lambda: database.set_aside(_WORKER_CONNECTIONS),
                duties=(
                    Duty("lost_instances", partial(_hold_what_lost_left, database.reserved, ledger, some_are_lost)),
                    Duty("known_keys", partial(_know_the_keys, keyring, keys_changed)),
                ),
                is_in_touch=is_in_touch,
            )
        finally:
            beating.cancel()
            await asyncio.wait({beating})
        await membership.leave()
    finally:
        await database.close()


def thresholds(config: Config) -> Thresholds:
    """Return the shares of caps that are told of."""
    return Thresholds.of(config.events.budget_thresholds)


def limit_rules(config: Config) -> Rules:
    """Return the limits that a configuration sets."""
    base: dict[Scope, Limit] = {}
    tiers: dict[str, dict[Scope, Limit]] = {}
    limits = config.limits
    base["tenant"] = Limit(limits.requests_per_minute, limits.burst, limits.tokens_per_minute, limits.concurrent_calls)
    none = Limit(burst=limits.burst)
    base["user"], base["feature"], base["key"] = (
        OwnLimit(*msgspec.structs.astuple(each)).over(none) for each in (limits.user, limits.feature, limits.key)
    )
    for name, tier in config.tiers.items():
        own = tier.limits
        changed: dict[Scope, OwnLimit] = {
            "tenant": OwnLimit(own.requests_per_minute, own.burst, own.tokens_per_minute, own.concurrent_calls),
            "user": OwnLimit(*msgspec.structs.astuple(own.user)),
            "feature": OwnLimit(*msgspec.structs.astuple(own.feature)),
        }
        if any(each.names for each in changed.values()):
            tiers[name] = {scope: each.over(base[scope]) for scope, each in changed.items()}
    return Rules(base, tiers)


def assemble_cluster(
    url: str, clock: Clock, lease: "Lease", rules: Rules, told: Thresholds, *, timeout_s: float
) -> tuple["PostgresDatabase", Ledger]:
    """Return a PostgreSQL database, still closed, that knows how to admit and to settle, and the ledger on it."""
    from tollhouse.gate.postgres import PostgresAdmissions
    from tollhouse.idempotency.model import FreeClaim
    from tollhouse.ledger.model import Release, Settlement
    from tollhouse.ledger.postgres import PostgresFreedClaims, PostgresReleases, PostgresSettlements
    from tollhouse.storage.postgres.database import PostgresDatabase

    database = PostgresDatabase(url, timeout_s=timeout_s)
    ledger = Ledger(database, clock)
    admissions = PostgresAdmissions(
        lease,
        clock,
        rules,
        lambda admission: ledger.give_back(admission.reservation, admission.claim),
    )
    # A lane each, so that neither waits for the other's commit.
    database.handle("admissions", {Admission: admissions})
    database.handle(
        "endings",
        {
            Settlement: PostgresSettlements(lease, ledger.write_later, told),
            Release: PostgresReleases(lease, ledger.write_later),
            FreeClaim: PostgresFreedClaims(lease, ledger.write_later),
        },
    )
    return database, ledger


async def _hold_what_lost_left(database: Database, ledger: Ledger, some_are_lost: asyncio.Event) -> None:
    """Enter the attempts of lost instances as unknown, whichever instance declared them lost."""
    while True:
        some_are_lost.clear()
        try:
            # None held of what is left: others are at it, or it cannot be written; either way, later.
            while (left := await database.read(budgets.left_by_lost)) and await ledger.hold_lost(left):
                pass
        except Unavailable as error:
            _LOG.warning("calls of lost instances are held later", reason=error.message)
        await is_set_within(some_are_lost, _LOST_LOOKED_FOR_EVERY_S)


async def _know_the_keys(keyring: Keyring, keys_changed: asyncio.Event) -> None:
    """Read the keys anew whenever some were made or revoked, here or by another instance."""
    while True:
        await keys_changed.wait()
        keys_changed.clear()
        try:
            await keyring.refresh()
        except Unavailable as error:
            _LOG.warning("the keys are read again in a moment", reason=error.message)
            keys_changed.set()
            await asyncio.sleep(_KEYS_AGAIN_S)
        except Exception:
            # Begun again, it reads what it has not read: until then a key that was revoked elsewhere is taken here.
            keys_changed.set()
            raise
