"""Reading usage from the rollups. It runs on every engine."""

import msgspec
import sqlalchemy as sa

from tollhouse.storage.schema import ai_usage_daily, ai_usage_monthly

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
