"""A tenant's AI module."""

import msgspec


class TenantModule(msgspec.Struct, frozen=True):
    """Whether and how far a tenant may use AI."""

    tenant_id: str
    name: str
    tier: str
    is_active: bool
    expires_at: str | None
    """ISO 8601 in UTC; from this instant on the module is expired. None: it does not expire."""
    budget_nano_usd: int
    """The cap of each calendar month."""
    has_own_budget: bool
    """False: the budget is the tier's, and follows it."""
    created_at: str
    updated_at: str


class Feature(msgspec.Struct, frozen=True):
    """A feature switch of a tenant; a feature without one is on."""

    tenant_id: str
    feature_slug: str
    is_enabled: bool
    updated_at: str


class GateState(msgspec.Struct, frozen=True):
    """What the gate has to know of a tenant and a feature."""

    is_active: bool
    expires_at: str | None
    budget_nano_usd: int
    is_feature_enabled: bool
    tier: str
