"""Reading usage from the rollups, and spending from the budgets. It runs on every engine."""

import msgspec
import sqlalchemy as sa

from tollhouse.storage.schema import ai_budgets, ai_usage_daily, ai_usage_monthly, tenant_ai_modules

GROUPINGS = {
    "user": ai_usage_monthly.c.user_id,
    "feature": ai_usage_monthly.c.feature_slug,
    "model": ai_usage_monthly.c.model,
    "provider": ai_usage_monthly.c.provider,
    "service": ai_usage_monthly.c.service,
    "day": ai_usage_daily.c.day,
}
"""What usage can be grouped by, and the rollup's column of it."""


class UsageSum(msgspec.Struct, frozen=True):
    """Usage of a month, as a whole or of one group.

    Attributes:
        group: the value grouped by, such as a user's id; "" for the whole, or where a call had none.
        unknown_calls: calls whose outcome is not known; neither they nor their ceilings are in the other figures.
        unknown_nano_usd: the ceilings of those calls, held against the budget.
    """

    group: str
    calls: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_nano_usd: int
    unknown_calls: int
    unknown_nano_usd: int

    @property
    def media_tokens(self) -> int:
        """Tokens of sound and pictures, which the rollups hold in their total alone."""
        text = self.input_tokens + self.cached_input_tokens + self.cache_write_tokens
        return self.total_tokens - (text + self.output_tokens + self.reasoning_tokens)


_COUNTS = UsageSum.__struct_fields__[1:]


def usage(connection: sa.Connection, tenant_id: str, billing_period: str, group_by: str | None) -> list[UsageSum]:
    """Return a tenant's usage of a month, grouped by one of ``GROUPINGS`` in order of cost, or as one total."""
    table = ai_usage_daily if group_by in (None, "day") else ai_usage_monthly
    group: sa.ColumnElement[str] = sa.literal("") if group_by is None else GROUPINGS[group_by]
    sums = [sa.func.coalesce(sa.func.sum(table.c[name]), 0).label(name) for name in _COUNTS]
    statement = sa.select(group.label("group"), *sums).where(
        table.c.tenant_id == tenant_id, table.c.billing_period == billing_period
    )
    if group_by is not None:
        order = group if group_by == "day" else sa.desc("cost_nano_usd")
        statement = statement.group_by(group).order_by(order, group)
    return [
        UsageSum(row.group, *(int(getattr(row, name)) for name in _COUNTS)) for row in connection.execute(statement)
    ]


class Spending(msgspec.Struct, frozen=True):
    """A tenant's own budget of a month, and its tier as it is today."""

    tenant_id: str
    tier: str
    cap_nano_usd: int
    posted_nano_usd: int
    reserved_nano_usd: int


def spending(connection: sa.Connection, billing_period: str, *, with_idle_tenants: bool) -> list[Spending]:
    """Return the spending of the tenants whose month has begun, in the order of their ids.

    Args:
        with_idle_tenants: also those that made no call in it, at the budget they would begin it with.
    """
    module, budget = tenant_ai_modules.c, ai_budgets.c
    is_own = sa.and_(
        budget.tenant_id == module.tenant_id,
        budget.billing_period == billing_period,
        budget.scope == "tenant",
        budget.scope_id == "",
    )
    statement = (
        sa.select(
            module.tenant_id,
            module.tier,
            sa.func.coalesce(budget.cap_nano_usd, module.budget_nano_usd),
            sa.func.coalesce(budget.posted_nano_usd, 0),
            sa.func.coalesce(budget.reserved_nano_usd, 0),
        )
        .select_from(tenant_ai_modules.join(ai_budgets, is_own, isouter=with_idle_tenants))
        .order_by(module.tenant_id)
    )
    return [Spending(*row) for row in connection.execute(statement)]
