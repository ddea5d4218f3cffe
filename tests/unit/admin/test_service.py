"""Administration on a real database: what a start does, and what a failure leaves."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness import engines
from harness.books import THRESHOLDS, open_books
from harness.clock import FakeClock
from tollhouse.admin.model import FeatureChanges, KeyRequest, LimitChange, TenantChanges
from tollhouse.admin.service import Administration
from tollhouse.budgets import store as budgets
from tollhouse.budgets.thresholds import EVENT_TYPE as TYPE
from tollhouse.errors import Unauthorized, Unavailable
from tollhouse.events import store as events
from tollhouse.events.model import Event, Selection
from tollhouse.events.order import place_all
from tollhouse.keys.service import Keyring
from tollhouse.storage.database import Database
from tollhouse.storage.schema import ai_budgets

USD = 1_000_000_000
TIERS = {"starter": 2 * USD, "growth": 10 * USD}


# A table that is missing is a fault of the file to SQLite, and of the program to PostgreSQL.
NOT_WRITTEN = {"sqlite": Unavailable, "postgresql": sa.exc.ProgrammingError}

Work = Callable[[Database, Keyring, FakeClock], Awaitable[None]]


def on_database(tmp_path: Path, work: Work) -> None:
    async def run() -> None:
        async with open_books(tmp_path / "t.db") as books:
            keyring = Keyring(books.database, b"p" * 32)
            await keyring.load()
            await work(books.database, keyring, books.clock)

    asyncio.run(run())


def administration(database: Database, keyring: Keyring, clock: FakeClock, tiers: dict[str, int]) -> Administration:
    return Administration(database, keyring, clock, tiers=tiers, default_tier="starter", thresholds=THRESHOLDS)


async def caps(database: Database, period: str) -> dict[str, int]:
    found = await database.read(lambda connection: budgets.budgets(connection, period, None))
    return {key.tenant_id: budget.cap_nano_usd for key, budget in found.items()}


def test_a_start_gives_tenants_on_a_tiers_budget_its_new_one_and_others_none(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        before = administration(database, keyring, clock, TIERS)
        await before.put_tenant("follows", TenantChanges(tier="growth"), "admin")
        await before.put_tenant("owns", TenantChanges(tier="growth", budget_usd=Decimal(3)), "admin")
        await before.put_tenant("other", TenantChanges(tier="starter"), "admin")
        entries = len((await before.audit(tenant_id=None, action=None, before_id=None, limit=99)).entries)

        after = administration(database, keyring, clock, TIERS | {"growth": 25 * USD})
        for _ in range(2):
            await after.follow_tiers()
            assert {tenant.tenant_id: tenant.budget_usd for tenant in (await tenants(after))} == {
                "follows": 25,
                "owns": 3,
                "other": 2,
            }
            assert await caps(database, "2026-04") == {"follows": 25 * USD, "owns": 3 * USD, "other": 2 * USD}
            written = (await after.audit(tenant_id=None, action=None, before_id=None, limit=99)).entries
            assert len(written) == entries + 1
            entry = written[0]
            assert (entry.actor, entry.action, entry.target) == ("system", "tenant.updated", "follows")
            assert (entry.before, entry.after) == ({"budget_nano_usd": 10 * USD}, {"budget_nano_usd": 25 * USD})

    on_database(tmp_path, work)


async def tenants(service: Administration) -> list[Any]:
    return (await service.tenants(after="", limit=100)).tenants


def test_a_start_leaves_months_that_are_over_or_have_not_begun_as_they_are(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        await administration(database, keyring, clock, TIERS).put_tenant("42", TenantChanges(), "admin")
        clock.advance(30 * 86_400)
        await administration(database, keyring, clock, TIERS | {"starter": 4 * USD}).follow_tiers()
        assert await caps(database, "2026-04") == {"42": 2 * USD}
        assert await caps(database, "2026-05") == {}

    on_database(tmp_path, work)


def test_a_change_whose_audit_entry_cannot_be_written_is_not_made(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        service = administration(database, keyring, clock, TIERS)
        made = await service.create_key(KeyRequest(service="s"), "admin")
        await database.write(lambda connection: connection.execute(sa.text("DROP TABLE ai_audit_log")).close())
        for change in (
            service.put_tenant("42", TenantChanges(), "admin"),
            service.create_key(KeyRequest(service="t"), "admin"),
            service.revoke_key(made.key_id, "admin"),
        ):
            with pytest.raises(NOT_WRITTEN[engines.current()]):
                await change
        assert await tenants(service) == []
        assert [(key.service, key.revoked_at) for key in (await service.keys()).keys] == [("s", None)]
        assert keyring.identify(made.key).service == "s"

    on_database(tmp_path, work)


def test_a_key_is_known_to_the_keyring_as_long_as_it_is_in_force_and_after_a_restart(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        service = administration(database, keyring, clock, TIERS)
        made = await service.create_key(KeyRequest(service="s", tenants=[42, "acme"]), "admin")
        principal = keyring.identify(made.key)
        assert (principal.key_id, principal.tenants) == (made.key_id, frozenset({"42", "acme"}))
        restarted = Keyring(database, b"p" * 32)
        await restarted.load()
        assert restarted.identify(made.key) == principal
        await service.revoke_key(made.key_id, "admin")
        again = Keyring(database, b"p" * 32)
        await again.load()
        for ring in (keyring, again):
            with pytest.raises(Unauthorized):
                ring.identify(made.key)

    on_database(tmp_path, work)


async def told(database: Database) -> list[Event]:
    await place_all(database)
    everything = Selection(has_untenanted=True)
    return await database.read(lambda connection: events.following(connection, everything, after=0, limit=500))


def test_changes_are_told_as_events_to_those_whom_they_concern(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        service = administration(database, keyring, clock, TIERS)
        await service.put_tenant("42", TenantChanges(is_active=True), "admin")
        await service.put_tenant("42", TenantChanges(is_active=False), "admin")
        await service.put_feature("42", "chat", FeatureChanges(is_enabled=False), "admin")
        await service.put_budget("42", "user", "101", Decimal(1), "admin")
        await service.put_limits("42", "tenant", "", LimitChange(requests_per_minute=7), "admin")
        await service.remove_budget("42", "user", "101", "admin")
        made = await service.create_key(KeyRequest(service="shop"), "admin")
        await service.revoke_key(made.key_id, "admin")
        found = await told(database)
        assert [(each.type, each.tenant_id, each.user_id, each.subject) for each in found] == [
            ("ai.tenant.created", "42", "", "42"),
            ("ai.tenant.updated", "42", "", "42"),
            ("ai.feature.updated", "42", "", "chat"),
            ("ai.budget.updated", "42", "101", "user:101"),
            ("ai.limit.updated", "42", "", "tenant"),
            ("ai.budget.removed", "42", "101", "user:101"),
            ("ai.key.created", "", "", made.key_id),
            ("ai.key.revoked", "", "", made.key_id),
        ]
        changed = json.loads(found[1].data)
        assert (changed["before"]["is_active"], changed["after"]["is_active"]) == (True, False)
        assert all(made.key not in each.data for each in found)

    on_database(tmp_path, work)


def test_a_key_for_very_many_tenants_is_made_and_told_without_them(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        service = administration(database, keyring, clock, TIERS)
        many: list[int | str] = [f"tenant-with-a-long-name-{number}" for number in range(1000)]
        await service.create_key(KeyRequest(service="shop", tenants=many), "admin")
        (event,) = await told(database)
        assert json.loads(event.data)["is_omitted"] is True

    on_database(tmp_path, work)


async def spend(database: Database, tenant_id: str, nano_usd: int) -> None:
    spent = sa.update(ai_budgets).where(ai_budgets.c.tenant_id == tenant_id).values(posted_nano_usd=nano_usd)
    await database.write(lambda connection: connection.execute(spent))


def test_a_cap_that_is_lowered_below_what_is_spent_is_told_of(tmp_path):
    async def work(database: Database, keyring: Keyring, clock: FakeClock) -> None:
        service = administration(database, keyring, clock, TIERS)
        for tenant_id in ("own", "of tier", "other"):
            await service.put_tenant(tenant_id, TenantChanges(tier="growth"), "admin")
            await spend(database, tenant_id, 8 * USD)
        await service.put_tenant("own", TenantChanges(budget_usd=Decimal(9)), "admin")
        lowered = administration(database, keyring, clock, TIERS | {"growth": 16 * USD})
        await lowered.follow_tiers()
        found = [json.loads(each.data) | {"of": each.tenant_id} for each in await told(database) if each.type == TYPE]
        assert [(each["of"], each["threshold_percent"], each["budget_usd"]) for each in found] == [
            ("own", 50, 9),
            ("own", 80, 9),
            ("of tier", 50, 16),
            ("other", 50, 16),
        ]

    on_database(tmp_path, work)
