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


def follow_tier(connection: sa.Connection, tier: str, budget_nano_usd: int) -> list[str]:
    """Give the tenants whose budget is their tier's its new amount; return the ids of those it changed for."""
    table = tenant_ai_modules.c
    stale = sa.and_(table.tier == tier, sa.not_(table.has_own_budget), table.budget_nano_usd != budget_nano_usd)
    tenant_ids = list(connection.scalars(sa.select(table.tenant_id).where(stale)))
    connection.execute(sa.update(tenant_ai_modules).where(stale).values(budget_nano_usd=budget_nano_usd))
    return tenant_ids


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
