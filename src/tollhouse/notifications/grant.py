"""What somebody may follow, by their key or by a token."""

import msgspec

from tollhouse.errors import Forbidden, InvalidRequest, TenantForbidden
from tollhouse.events.model import Selection
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.validation import MAX_ID, printable


class Grant(msgspec.Struct, frozen=True):
    """The most that somebody may follow, and for how long.

    Attributes:
        key_id: the key that it comes from; it ends with that.
        tenants: whose events; None for those of all tenants.
        user_id: of which user; None for all.
        has_untenanted: whether also those that concern no tenant.
        expires_at_ms: when it ends by itself, in milliseconds since the Unix epoch; None: it does not.
    """

    key_id: str
    tenants: frozenset[str] | None
    user_id: str | None = None
    has_untenanted: bool = False
    expires_at_ms: int | None = None

    @classmethod
    def of(cls, principal: Principal) -> "Grant":
        """Return what the holder of a key may follow. Every role may, as each may read usage."""
        return cls(principal.key_id, principal.tenants, has_untenanted=principal.is_super_admin)

    def holds(self, keyring: Keyring, now_ms: int) -> bool:
        """Whether it is still good."""
        return keyring.is_in_force(self.key_id) and (self.expires_at_ms is None or now_ms < self.expires_at_ms)

    def select(self, tenant_id: str | None, user_id: str | None, types: frozenset[str] | None = None) -> Selection:
        """Return which events are followed, of those that may be.

        Args:
            tenant_id: whose; None for all tenants that may be followed.
            user_id: of which user; None for all that may be followed.

        Raises:
            InvalidRequest: an id is none.
            TenantForbidden: another tenant's may not be followed.
            Forbidden: another user's may not be followed.
        """
        tenants = self.tenants
        if tenant_id is not None:
            _check("tenant_id", tenant_id)
            if tenants is not None and tenant_id not in tenants:
                raise TenantForbidden(f"this key may not follow tenant {tenant_id}", tenant_id=tenant_id)
            tenants = frozenset({tenant_id})
        if user_id is None:
            user_id = self.user_id
        else:
            _check("user_id", user_id)
            if self.user_id is not None and user_id != self.user_id:
                raise Forbidden(f"this token is not for the events of user {user_id}")
        return Selection(tenants, user_id, types, self.has_untenanted)


def _check(field: str, text: str) -> None:
    try:
        printable(field, text, MAX_ID)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
