"""Gate, ledger and database put together as the service does, with short words for what tests do to them."""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from harness import engines
from harness.clock import FakeClock
from tollhouse.budgets import store as budgets
from tollhouse.budgets.model import BudgetKey, Reservation
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.gate.service import Gate
from tollhouse.gate.sqlite import SqliteGate
from tollhouse.idempotency.model import Claim
from tollhouse.instances.lease import Lease
from tollhouse.instances.service import Membership
from tollhouse.kit.clock import billing_period, utc_text
from tollhouse.kit.scopes import Scope
from tollhouse.ledger import sqlite as sqlite_ledger
from tollhouse.ledger.model import Settlement
from tollhouse.ledger.service import Ledger
from tollhouse.ledger.verify import Report, verify
from tollhouse.limits.model import Limit, Rules
from tollhouse.limits.sqlite import Limiter
from tollhouse.providers.usage import Usage
from tollhouse.storage import migrate
from tollhouse.storage.database import Database
from tollhouse.storage.schema import ai_budgets, ai_instances, ai_rate_limits, ai_reservations, ai_usage_log
from tollhouse.storage.sqlite import SqliteDatabase
from tollhouse.tenants import store as tenants
from tollhouse.tenants.model import Feature, TenantModule
from tollhouse.wiring.engines import _give_back, assemble_cluster

_numbers = count(1)
LEASE_S = 10
THRESHOLDS = Thresholds((50, 80, 90, 100))
_LIVE_EPOCHS = sa.select(ai_instances.c.epoch).where(ai_instances.c.state == "live").order_by(ai_instances.c.epoch)


def reservation(ceiling: int = 100, *, at: str = "2026-04-10T12:00:00.000Z", **changes: Any) -> Reservation:
    """Return a reservation of a new request of tenant 42, charged to the month it was made in."""
    fields: dict[str, Any] = {
        "request_id": f"req_{next(_numbers):06}",
        "attempt": 1,
        "tenant_id": "42",
        "user_id": "u",
        "feature_slug": "f",
        "service": "shop",
        "key_id": "k",
        "model": "small",
        "provider": "fake",
        "price_version": "test 1",
        "ceiling_nano_usd": ceiling,
        "billing_period": at[:7],
        "created_at": at,
    }
    return Reservation(**fields | changes)


def settlement(of: Reservation, cost: int, **changes: Any) -> Settlement:
    """Return the end of an attempt that was billed."""
    fields: dict[str, Any] = {
        "reservation": of,
        "status": "settled",
        "usage": Usage(input_tokens=5, output_tokens=2),
        "usage_source": "reported",
        "cost_nano_usd": cost,
        "finish_reason": "stop",
        "latency_ms": 3,
        "created_at": of.created_at,
    }
    return Settlement(**fields | changes)


def hash_by_hand(row: Any) -> str:
    """Compute the hash of a row of the ledger as any tool can: without Tollhouse's code, as its README says."""
    columns = row._asdict()
    other_usage = columns.pop("other_usage")
    values = list(columns.values())[1:-1]
    if other_usage:
        values.insert(-1, other_usage)
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Books:
    """An open database with the gate and the ledger on it.

    Attributes:
        membership: on PostgreSQL, the instance that these books are open in.
    """

    def __init__(
        self, database: Database, clock: FakeClock, ledger: Ledger, membership: Membership | None = None
    ) -> None:
        self.database = database
        self.clock = clock
        self.gate = Gate(database)
        self.ledger = ledger
        self.membership = membership

    async def recover(self) -> int:
        """Enter what a former process left behind as unknown, as the next start does; return how many attempts."""
        if self.membership is None:
            return await self.ledger.recover()
        for epoch in await self.database.read(lambda connection: list(connection.scalars(_LIVE_EPOCHS))):
            if epoch != self.epoch:
                await self.declare_lost(epoch)
        return await self.hold_lost()

    async def declare_lost(self, epoch: int) -> bool:
        """Declare the instance of an epoch lost, which has not beaten since; return whether it was live."""
        beat = sa.select(ai_instances.c.beat).where(ai_instances.c.epoch == epoch).scalar_subquery()
        declare = sa.select(sa.func.ai_declare_lost(epoch, beat, utc_text(self.clock.now_ms())))
        return bool(await self.database.write(lambda connection: connection.scalar(declare)))

    async def hold_lost(self) -> int:
        """Enter what lost instances left behind as unknown; return how many attempts."""
        return await self.ledger.hold_lost(await self.database.read(budgets.left_by_lost))

    @property
    def epoch(self) -> int:
        """Which life of an instance these books are open in, on PostgreSQL."""
        assert self.membership is not None
        return self.membership._lease.epoch

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for everybody: the rate limits of several instances go by their database's clock."""
        self.clock.advance(seconds)
        if engines.current() == "postgresql":
            earlier = sa.update(ai_rate_limits).values(at_us=ai_rate_limits.c.at_us - round(seconds * 1e6))
            await self.database.write(lambda connection: connection.execute(earlier))

    async def set_tenant(self, tenant_id: str = "42", *, cap: int = 10_000, **changes: Any) -> None:
        """Set a tenant's module up or anew, as the administration does: the cap holds in the running month."""
        now = utc_text(self.clock.now_ms())
        fields: dict[str, Any] = {
            "tenant_id": tenant_id,
            "name": tenant_id,
            "tier": "growth",
            "is_active": True,
            "expires_at": None,
            "budget_nano_usd": cap,
            "has_own_budget": True,
            "created_at": now,
            "updated_at": now,
        }
        module = TenantModule(**fields | changes)

        def work(connection: sa.Connection) -> None:
            tenants.save(connection, module)
            budgets.set_tenant_cap(connection, tenant_id, self.period, module.budget_nano_usd)

        await self.database.write(work)

    async def set_feature(self, feature_slug: str, *, is_enabled: bool, tenant_id: str = "42") -> None:
        feature = Feature(tenant_id, feature_slug, is_enabled, utc_text(self.clock.now_ms()))
        await self.database.write(lambda connection: tenants.save_feature(connection, feature))

    async def set_cap(self, scope: Scope, scope_id: str, cap: int, tenant_id: str = "42") -> None:
        """Cap a user, a feature or (for all tenants) a key from this month on."""
        key = self.key(scope, scope_id, tenant_id)
        now = utc_text(self.clock.now_ms())
        await self.database.write(lambda connection: budgets.set_standing_cap(connection, key, cap, now))

    async def lift_cap(self, scope: Scope, scope_id: str, tenant_id: str = "42") -> bool:
        key = self.key(scope, scope_id, tenant_id)
        return await self.database.write(lambda connection: budgets.remove_standing_cap(connection, key))

    async def admit(
        self, of: Reservation, claim: Claim | None = None, *, is_first: bool = True, tokens: int = 0
    ) -> Admitted | Replay:
        return await self.gate.admit(Admission(of, claim, is_first=is_first, tokens=tokens))

    async def reserve(self, ceiling: int = 100, **changes: Any) -> Reservation:
        """Admit a new attempt, which may use ``tokens``; raises what the gate raises."""
        tokens = changes.pop("tokens", 0)
        made = reservation(ceiling, at=utc_text(self.clock.now_ms()), **changes)
        assert isinstance(await self.admit(made, tokens=tokens), Admitted)
        return made

    @property
    def period(self) -> str:
        return billing_period(self.clock.now_ms())

    def key(self, scope: Scope = "tenant", scope_id: str = "", tenant_id: str = "42") -> BudgetKey:
        return BudgetKey("" if scope == "key" else tenant_id, self.period, scope, scope_id)

    async def budgets(self) -> dict[BudgetKey, tuple[int, int, int]]:
        """Return every budget row of every month: cap, posted, reserved."""
        rows = await self.database.read(lambda connection: connection.execute(sa.select(ai_budgets)).all())
        return {
            BudgetKey(row.tenant_id, row.billing_period, row.scope, row.scope_id): (
                row.cap_nano_usd,
                row.posted_nano_usd,
                row.reserved_nano_usd,
            )
            for row in rows
        }

    async def budget(self, scope: Scope = "tenant", scope_id: str = "", tenant_id: str = "42") -> tuple[int, int, int]:
        """Return cap, posted and reserved of one budget in the running month."""
        return (await self.budgets())[self.key(scope, scope_id, tenant_id)]

    async def reservations(self) -> dict[tuple[str, int], str]:
        """Return the state of each reservation that is held."""
        table = ai_reservations.c
        rows = await self.database.read(
            lambda connection: connection.execute(sa.select(table.request_id, table.attempt, table.state)).all()
        )
        return {(row.request_id, row.attempt): row.state for row in rows}

    async def rows(self) -> list[Any]:
        """Return the ledger, in the order it was written."""
        return await self.database.read(
            lambda connection: list(connection.execute(sa.select(ai_usage_log).order_by(ai_usage_log.c.id)))
        )

    async def verify(self) -> Report:
        return await self.database.read(verify)


@cache
def _new_database() -> bytes:
    """Return a migrated database without rows: migrating one for every test would take most of its time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "db")
        engine = sa.create_engine(f"sqlite:///{file}", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("BEGIN")
            migrate.upgrade(connection)
            connection.exec_driver_sql("COMMIT")
        return file.read_bytes()


@asynccontextmanager
async def open_books(
    path: Path, clock: FakeClock | None = None, *, rules: Rules | None = None, **limits: int
) -> AsyncIterator[Books]:
    """Open books on the engine of the test, which are made if there are none under this path.

    Args:
        rules: the limits of everybody; left out, each tenant has ``limits``, and nobody else any.
    """
    clock = clock or FakeClock()
    opened = _open_embedded if engines.current() == "sqlite" else _open_cluster
    async with opened(path, clock, rules or Rules({"tenant": Limit(**limits)})) as books:
        yield books


@asynccontextmanager
async def _open_embedded(path: Path, clock: FakeClock, rules: Rules) -> AsyncIterator[Books]:
    if not path.exists():
        path.write_bytes(_new_database())
    database = SqliteDatabase(path)
    limiter = Limiter(rules, clock)
    SqliteGate(clock, limiter).handle_on(database)
    sqlite_ledger.handle_on(database, limiter, THRESHOLDS)
    database.open()
    try:
        ledger = Ledger(database, clock)
        database.when_late(Admission, partial(_give_back, ledger))
        yield Books(database, clock, ledger)
    finally:
        await database.close()


@asynccontextmanager
async def _open_cluster(path: Path, clock: FakeClock, rules: Rules) -> AsyncIterator[Books]:
    """Join the database as an instance that shows that it lives as long as the clock stands."""
    lease = Lease(clock, LEASE_S)
    database, ledger = assemble_cluster(engines.database_url(path), clock, lease, rules, THRESHOLDS, timeout_s=5)

    membership = Membership(database.dial, clock, lease, when_lost=lambda: None, when_keys_changed=lambda: None)
    await database.open()
    try:
        await membership.join()
        await database.open_lanes()
        yield Books(database, clock, ledger, membership)
    finally:
        await membership.leave()
        await database.close()


def run_on_books(
    folder: Path,
    scenario: Callable[[Books], Awaitable[None]],
    *,
    clock: FakeClock | None = None,
    is_consistent: bool = True,
    rules: Rules | None = None,
    **limits: int,
) -> None:
    """Run a scenario on new books; whatever it does, they have to be consistent when it ends."""

    async def main() -> None:
        async with open_books(folder / "books.db", clock, rules=rules, **limits) as books:
            await scenario(books)
            report = await books.verify()
            assert report.is_consistent == is_consistent, msgspec.json.encode(report.findings)

    asyncio.run(main())


def run_on_two(
    folder: Path,
    scenario: Callable[[Books, Books], Awaitable[None]],
    *,
    clock: FakeClock | None = None,
    rules: Rules | None = None,
    **limits: int,
) -> None:
    """Run a scenario on new books that two instances share, and that have to be consistent when it ends."""

    async def main() -> None:
        now = clock or FakeClock()
        async with open_books(folder / "books.db", now, rules=rules, **limits) as one:
            async with open_books(folder / "books.db", now, rules=rules, **limits) as other:
                await scenario(one, other)
            report = await one.verify()
            assert report.is_consistent, msgspec.json.encode(report.findings)

    asyncio.run(main())
