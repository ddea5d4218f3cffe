"""Usage as callers read it. Token classes are disjoint; amounts are exact, in USD."""

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from tollhouse.kit.ids import id_value
from tollhouse.kit.money import usd
from tollhouse.metering.store import UsageSum


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one group. Which key it has is what was grouped by; a ``user_id`` of null: calls for no user.

    ``unknown_calls`` are calls whose outcome is not known yet, ``unknown_usd`` their ceilings, held against the
    budget; neither is in the other figures.
    """

    user_id: int | str | UnsetType | None = UNSET
    feature_slug: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    day: str | UnsetType = UNSET
    calls: int
    tokens: int
    cost_usd: Decimal
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    unknown_calls: int
    unknown_usd: Decimal


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's usage of a month: one total, or a list named after what was grouped by."""

    period: str
    tenant_id: int | str
    users: list[UsageRow] | UnsetType = UNSET
    features: list[UsageRow] | UnsetType = UNSET
    models: list[UsageRow] | UnsetType = UNSET
    providers: list[UsageRow] | UnsetType = UNSET
    services: list[UsageRow] | UnsetType = UNSET
    days: list[UsageRow] | UnsetType = UNSET
    calls: int | UnsetType = UNSET
    tokens: int | UnsetType = UNSET
    cost_usd: Decimal | UnsetType = UNSET
    input_tokens: int | UnsetType = UNSET
    cached_input_tokens: int | UnsetType = UNSET
    cache_write_tokens: int | UnsetType = UNSET
    output_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    unknown_calls: int | UnsetType = UNSET
    unknown_usd: Decimal | UnsetType = UNSET


class TenantSpending(msgspec.Struct, frozen=True):
    """What a tenant has spent of its month's budget; ``reserved_usd`` is spoken for by calls not settled."""

    tenant_id: int | str
    tier: str
    budget_usd: Decimal
    spent_usd: Decimal
    pct_used: Decimal
    reserved_usd: Decimal


LISTS = {
    "user": ("users", "user_id"),
    "feature": ("features", "feature_slug"),
    "model": ("models", "model"),
    "provider": ("providers", "provider"),
    "service": ("services", "service"),
    "day": ("days", "day"),
}
"""For each way to group: the list's name, and the name of the key in its rows."""
