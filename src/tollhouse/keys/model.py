"""Keys and principals."""

from typing import Literal

import msgspec

Role = Literal["service", "reader", "super-admin"]


class Principal(msgspec.Struct, frozen=True):
    """Who calls.

    Attributes:
        key_id: names the key in the ledger and the audit log; never the key itself.
        tenants: the tenant ids it may act for, or None for all.
        feature_slug: the feature its calls count as when they name none, or "".
    """

    key_id: str
    service: str
    role: Role
    tenants: frozenset[str] | None
    feature_slug: str = ""

    @property
    def is_super_admin(self) -> bool:
        return self.role == "super-admin"

    @property
    def may_complete(self) -> bool:
        """Whether it may spend money; a reader may only look."""
        return self.role != "reader"

    def may_act_for(self, tenant_id: str) -> bool:
        return self.tenants is None or tenant_id in self.tenants

    @property
    def only_tenant(self) -> str | None:
        """The tenant of a key that is bound to one."""
        return next(iter(self.tenants)) if self.tenants is not None and len(self.tenants) == 1 else None


class ServiceKey(msgspec.Struct, frozen=True):
    """A key on record.

    Attributes:
        digest: HMAC-SHA-256 of the key under the pepper, in hex.
        first_used_at: when it was first seen in use; None: not since that is kept (schema 0004).
    """

    key_id: str
    service: str
    role: Role
    tenants: tuple[str, ...] | None
    feature_slug: str
    digest: str
    created_at: str
    revoked_at: str | None
    first_used_at: str | None = None

    def principal(self) -> Principal:
        tenants = None if self.tenants is None else frozenset(self.tenants)
        return Principal(self.key_id, self.service, self.role, tenants, self.feature_slug)
