"""The control plane's statements on tenants and features. They run on every engine."""

import msgspec
import sqlalchemy as sa

from tollhouse.storage.schema import tenant_ai_features, tenant_ai_modules
from tollhouse.tenants.model import Feature, TenantModule


def find(connection: sa.Connection, tenant_id: str) -> TenantModule | None:
    """Return a tenant's module, or None."""
    row = connection.execute(
        sa.select(tenant_ai_modules).where(tenant_ai_modules.c.tenant_id == tenant_id)
    ).one_or_none()
    return None if row is None else TenantModule(**row._asdict())


def page(connection: sa.Connection, *, after: str, limit: int) -> list[TenantModule]:
    """Return up to ``limit`` tenants whose id sorts after ``after`` ("" for the first page)."""
    rows = connection.execute(
        sa.select(tenant_ai_modules)
        .where(tenant_ai_modules.c.tenant_id > after)
        .order_by(tenant_ai_modules.c.tenant_id)
        .limit(limit)
    )
    return [TenantModule(**row._asdict()) for row in rows]


def save(connection: sa.Connection, module: TenantModule) -> None:
    """Insert or replace a tenant's module."""
    connection.execute(sa.delete(tenant_ai_modules).where(tenant_ai_modules.c.tenant_id == module.tenant_id))
    connection.execute(sa.insert(tenant_ai_modules).values(**msgspec.structs.asdict(module)))


def is_behind_tier(connection: sa.Connection, tier: str, budget_nano_usd: int) -> bool:
    """Whether there are tenants whose budget is their tier's, and is not what it is now."""
    return bool(connection.scalar(sa.select(sa.exists().where(_stale(tier, budget_nano_usd)))))


def follow_tier(connection: sa.Connection, tier: str, budget_nano_usd: int) -> dict[str, int]:
    """Give the tenants whose budget is their tier's its new amount; return the old one of each that it changed for."""
    table = tenant_ai_modules.c
    stale = _stale(tier, budget_nano_usd)
    rows = connection.execute(sa.select(table.tenant_id, table.budget_nano_usd).where(stale))
    before = {row.tenant_id: row.budget_nano_usd for row in rows}
    connection.execute(sa.update(tenant_ai_modules).where(stale).values(budget_nano_usd=budget_nano_usd))
    return before


def _stale(tier: str, budget_nano_usd: int) -> sa.ColumnElement[bool]:
    table = tenant_ai_modules.c
    return sa.and_(table.tier == tier, sa.not_(table.has_own_budget), table.budget_nano_usd != budget_nano_usd)


def find_feature(connection: sa.Connection, tenant_id: str, feature_slug: str) -> Feature | None:
    """Return a tenant's feature switch, or None."""
    table = tenant_ai_features.c
    row = connection.execute(
        sa.select(tenant_ai_features).where(table.tenant_id == tenant_id, table.feature_slug == feature_slug)
    ).one_or_none()
    return None if row is None else Feature(**row._asdict())


def features(connection: sa.Connection, tenant_id: str) -> list[Feature]:
    """Return a tenant's feature switches."""
    rows = connection.execute(
        sa.select(tenant_ai_features)
        .where(tenant_ai_features.c.tenant_id == tenant_id)
        .order_by(tenant_ai_features.c.feature_slug)
    )
    return [Feature(**row._asdict()) for row in rows]


def save_feature(connection: sa.Connection, feature: Feature) -> None:
    """Insert or replace a feature switch."""
    table = tenant_ai_features.c
    connection.execute(
        sa.delete(tenant_ai_features).where(
            table.tenant_id == feature.tenant_id, table.feature_slug == feature.feature_slug
        )
    )
    connection.execute(sa.insert(tenant_ai_features).values(**msgspec.structs.asdict(feature)))
