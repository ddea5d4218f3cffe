"""Usage as callers read it. Amounts are exact, in USD; token classes are disjoint, and add up to ``tokens``."""

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType


class TotalUsage(msgspec.Struct, frozen=True):
    """A tenant's usage of a month as one total.

    ``media_tokens`` are sound and pictures, read or made, where the provider counts them apart.
    ``unknown_calls`` are those whose outcome is not known yet, and ``unknown_usd`` the ceilings held for them; they
    are in none of the other figures.
    """

    period: str
    tenant_id: int | str
    calls: int
    tokens: int
    cost_usd: Decimal
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    media_tokens: int
    unknown_calls: int
    unknown_usd: Decimal


class UsageGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one group, with the key that was grouped by. ``user_id`` null: the calls that named no user."""

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
    media_tokens: int
    unknown_calls: int
    unknown_usd: Decimal


class GroupedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's usage of a month in groups: the one list, named after what was grouped by."""

    period: str
    tenant_id: int | str
    users: list[UsageGroup] | UnsetType = UNSET
    features: list[UsageGroup] | UnsetType = UNSET
    models: list[UsageGroup] | UnsetType = UNSET
    providers: list[UsageGroup] | UnsetType = UNSET
    services: list[UsageGroup] | UnsetType = UNSET
    days: list[UsageGroup] | UnsetType = UNSET


class TenantSpending(msgspec.Struct, frozen=True):
    """What a tenant has spent of its month's budget; ``reserved_usd`` is held for calls that are not settled."""

    tenant_id: int | str
    tier: str
    budget_usd: Decimal
    spent_usd: Decimal
    pct_used: Decimal
    reserved_usd: Decimal
