"""What administrators send and see: amounts in USD, ids as callers know them, and never a key's digest."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tollhouse.audit.model import AuditEntry
from tollhouse.budgets.model import Budget, BudgetKey
from tollhouse.keys.model import Role, ServiceKey
from tollhouse.kit.ids import id_value
from tollhouse.kit.money import usd
from tollhouse.kit.scopes import Scope
from tollhouse.kit.validation import OutsideId
from tollhouse.limits.model import LimitKey, OwnLimit
from tollhouse.tenants.model import Feature, TenantModule

MAX_NAME = 200
MAX_TENANTS_OF_KEY = 1000

Name = Annotated[str, Meta(max_length=MAX_NAME)]
Slug = Annotated[str, Meta(min_length=1, max_length=128)]
ZonedTime = Annotated[datetime, Meta(tz=True)]


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body. A typo in a field must not pass for leaving it out, so unknown fields are refused."""


class TenantChanges(Sent, frozen=True):
    """What to change of a tenant; what is left out stays as it is.

    A new tenant is off until activated. ``budget_usd`` gives it a monthly cap of its own, and null the tier's again;
    ``expires_at`` is an RFC 3339 time with its zone, or null for never.
    """

    name: Name | UnsetType = UNSET
    tier: Slug | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    expires_at: ZonedTime | UnsetType | None = UNSET
    budget_usd: Decimal | UnsetType | None = UNSET


class Tenant(msgspec.Struct, frozen=True):
    """A tenant's AI module. ``budget_usd`` is the cap of each calendar month; it is the tier's unless own."""

    tenant_id: int | str
    name: str
    tier: str
    is_active: bool
    expires_at: str | None
    budget_usd: Decimal
    has_own_budget: bool
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, module: TenantModule) -> "Tenant":
        return cls(
            tenant_id=id_value(module.tenant_id),
            name=module.name,
            tier=module.tier,
            is_active=module.is_active,
            expires_at=module.expires_at,
            budget_usd=usd(module.budget_nano_usd),
            has_own_budget=module.has_own_budget,
            created_at=module.created_at,
            updated_at=module.updated_at,
        )


class TenantPage(msgspec.Struct, frozen=True):
    """Tenants in the order of their ids as text. ``next_after`` asks for the next page; null: this is the last."""

    tenants: list[Tenant]
    next_after: str | None


class FeatureChanges(Sent, frozen=True):
    """What to change of a feature; what is left out stays as it is. ``budget_usd`` caps its month, null lifts that."""

    is_enabled: bool | UnsetType = UNSET
    budget_usd: Decimal | UnsetType | None = UNSET


class FeatureSwitch(msgspec.Struct, frozen=True):
    """A tenant's feature switch, and the feature's monthly cap where it has one. Without a switch it is on."""

    feature_slug: str
    is_enabled: bool
    budget_usd: Decimal | None
    updated_at: str

    @classmethod
    def of(cls, feature: Feature, cap_nano_usd: int | None) -> "FeatureSwitch":
        return cls(feature.feature_slug, feature.is_enabled, usd_or_none(cap_nano_usd), feature.updated_at)


class FeatureList(msgspec.Struct, frozen=True):
    """A tenant's feature switches."""

    tenant_id: int | str
    features: list[FeatureSwitch]


class BudgetChange(Sent, frozen=True):
    """A monthly cap."""

    budget_usd: Decimal


class BudgetState(msgspec.Struct, frozen=True):
    """A cap in the running month: ``spent_usd + reserved_usd`` never passes ``budget_usd`` by a new call."""

    scope: Literal["tenant", "user", "feature", "key"]
    scope_id: int | str | None
    budget_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal

    @classmethod
    def of(cls, key: BudgetKey, budget: Budget) -> "BudgetState":
        scope_id = id_value(key.scope_id) if key.scope == "user" else key.scope_id or None
        amounts = (budget.cap_nano_usd, budget.posted_nano_usd, budget.reserved_nano_usd)
        return cls(key.scope, scope_id, *map(usd, amounts))


class BudgetList(msgspec.Struct, frozen=True):
    """A tenant's caps in the running month, its own first."""

    tenant_id: int | str
    period: str
    budgets: list[BudgetState]


MAX_LIMIT = 1_000_000_000
LimitValue = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]
BurstValue = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class LimitChange(Sent, frozen=True):
    """Limits of one's own, in the place of all that were set before. Null is as configured, 0 no limit."""

    requests_per_minute: LimitValue | None = None
    burst: BurstValue | None = None
    tokens_per_minute: LimitValue | None = None
    concurrent_calls: LimitValue | None = None

    @property
    def limit(self) -> OwnLimit:
        return OwnLimit(self.requests_per_minute, self.burst, self.tokens_per_minute, self.concurrent_calls)


class LimitState(msgspec.Struct, frozen=True):
    """The limits that somebody has of their own. Null is as configured, 0 no limit."""

    scope: Scope
    scope_id: int | str | None
    requests_per_minute: int | None
    burst: int | None
    tokens_per_minute: int | None
    concurrent_calls: int | None

    @classmethod
    def of(cls, key: LimitKey, limit: OwnLimit) -> "LimitState":
        scope_id = id_value(key.scope_id) if key.scope == "user" else key.scope_id or None
        return cls(key.scope, scope_id, *msgspec.structs.astuple(limit))


class LimitList(msgspec.Struct, frozen=True):
    """The limits that a tenant, its users and its features have of their own."""

    tenant_id: int | str
    limits: list[LimitState]


class KeyRequest(Sent, frozen=True):
    """A key to be made. ``tenants`` null: it may act for all; ``feature_slug``: what its calls count as by default."""

    service: Slug
    role: Role = "service"
    tenants: Annotated[list[OutsideId], Meta(min_length=1, max_length=MAX_TENANTS_OF_KEY)] | None = None
    feature_slug: Slug | None = None
    budget_usd: Decimal | None = None


class Key(msgspec.Struct, frozen=True):
    """A service key on record, without the key itself.

    ``revoked_at`` null: it is in force. ``first_used_at`` null: it was not seen in use since that is kept.
    """

    key_id: str
    service: str
    role: Role
    tenants: list[int | str] | None
    feature_slug: str | None
    budget_usd: Decimal | None
    created_at: str
    revoked_at: str | None
    first_used_at: str | None

    @classmethod
    def of(cls, key: ServiceKey, cap_nano_usd: int | None) -> "Key":
        return cls(
            key_id=key.key_id,
            service=key.service,
            role=key.role,
            tenants=None if key.tenants is None else [id_value(tenant_id) for tenant_id in key.tenants],
            feature_slug=key.feature_slug or None,
            budget_usd=usd_or_none(cap_nano_usd),
            created_at=key.created_at,
            revoked_at=key.revoked_at,
            first_used_at=key.first_used_at,
        )


class NewKey(Key, frozen=True):
    """A key just made, with the key itself: it is shown this once, and stored only as a digest."""

    key: str


class KeyList(msgspec.Struct, frozen=True):
    """All service keys, the oldest first."""

    keys: list[Key]


class AuditRecord(msgspec.Struct, frozen=True):
    """One change: who (a key's id, or ``system``) did what to whom, and the state before and after."""

    id: int
    created_at: str
    actor: str
    action: str
    tenant_id: int | str | None
    target: str
    before: Any
    after: Any

    @classmethod
    def of(cls, entry_id: int, entry: AuditEntry) -> "AuditRecord":
        tenant_id = id_value(entry.tenant_id) if entry.tenant_id else None
        return cls(
            entry_id, entry.created_at, entry.actor, entry.action, tenant_id, entry.target, entry.before, entry.after
        )


class AuditPage(msgspec.Struct, frozen=True):
    """Audit entries, the newest first. ``next_before_id`` asks for the next page; null: this is the last."""

    entries: list[AuditRecord]
    next_before_id: int | None


def usd_or_none(amount_nano_usd: int | None) -> Decimal | None:
    """Return an amount in USD, or None where there is none."""
    return None if amount_nano_usd is None else usd(amount_nano_usd)
