"""One administrator's change: a transaction, the month it falls into, and the audit entries it leaves."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.telling import events_of
from tollhouse.budgets import store as budgets
from tollhouse.budgets.model import Budget, BudgetKey
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.errors import InvalidRequest, NotFound
from tollhouse.events import outbox
from tollhouse.keys import store as keys
from tollhouse.keys.model import ServiceKey
from tollhouse.kit.clock import billing_period, utc_text
from tollhouse.kit.money import nano_usd
from tollhouse.kit.scopes import Scope
from tollhouse.kit.validation import printable
from tollhouse.limits import store as limits
from tollhouse.limits.model import LimitKey, OwnLimit
from tollhouse.tenants import store as tenants
from tollhouse.tenants.model import TenantModule

_MAX_BUDGET_USD = 1_000_000_000
_SMALLEST_USD = Decimal("1e-9")


def take_turn(connection: sa.Connection) -> None:
    """Wait for other administrators' changes to be over: each is made on what the one before left.

    An embedded database has one writer, and needs nothing.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('tollhouse administration', 0))"))


class Change:
    """What a change reads and writes.

    The time is taken inside the transaction: no call that was admitted before it can have opened a later month.

    Args:
        thresholds: shares of a cap that are told of once they are spent.
    """

    def __init__(self, connection: sa.Connection, now_ms: int, actor: str, thresholds: Thresholds) -> None:
        self.connection = connection
        self.now = utc_text(now_ms)
        self.period = billing_period(now_ms)
        self._now_ms = now_ms
        self._actor = actor
        self._thresholds = thresholds
        self._entries: list[AuditEntry] = []

    def record(self, action: str, tenant_id: str, target: str, before: Any, after: Any) -> None:
        """Tell of something this change does; states never hold a key or its digest."""
        self._entries.append(AuditEntry(self.now, self._actor, action, tenant_id, target, before, after))

    def write_audit(self) -> None:
        """Write what was recorded: last of all, since nobody else can write to the audit log from then on."""
        outbox.append_all(self.connection, events_of(self._entries))
        audit.append_all(self.connection, self._entries)

    def tenant(self, tenant_id: str) -> TenantModule:
        """Return a tenant's module; raises NotFound for one that was never set up."""
        module = tenants.find(self.connection, tenant_id)
        if module is None:
            raise NotFound(f"there is no tenant {tenant_id}; PUT /admin/tenants/{tenant_id} sets it up")
        return module

    def service_key(self, key_id: str) -> ServiceKey:
        """Return a service key; raises NotFound for one that was never made."""
        key = keys.find(self.connection, key_id)
        if key is None:
            raise NotFound(
                f"there is no service key {key_id}; GET /admin/keys lists them, and the admin key of the "
                "configuration is not among them"
            )
        return key

    def budget_key(self, tenant_id: str, scope: Scope, scope_id: str) -> BudgetKey:
        """Return the key of a budget in the running month."""
        return BudgetKey(tenant_id, self.period, scope, scope_id)

    def budget(self, key: BudgetKey, cap_nano_usd: int) -> Budget:
        """Return a budget's state; a month that has not begun has nothing spent."""
        known = budgets.budgets(self.connection, key.billing_period, key.tenant_id)
        return known.get(key, Budget(cap_nano_usd, 0, 0))

    def set_cap(self, key: BudgetKey, cap_nano_usd: int) -> None:
        """Set the cap of a user, a feature or a service key."""
        before = budgets.standing_cap(self.connection, key)
        if before != cap_nano_usd:
            budgets.set_standing_cap(self.connection, key, cap_nano_usd, self.now)
            self.tell_thresholds(key.scope, [(key.tenant_id, key.scope_id)])
            self._record_cap(key, before, cap_nano_usd)

    def tell_thresholds(self, scope: Scope, owners: Collection[tuple[str, str]]) -> None:
        """Tell of shares that are spent of caps that were changed; ``owners`` are their tenants and scope ids."""
        budgets.tell_thresholds(self.connection, self._thresholds, self.period, scope, owners, self._now_ms)

    def lift_cap(self, key: BudgetKey) -> bool:
        """Lift such a cap; return whether there was one."""
        before = budgets.standing_cap(self.connection, key)
        if before is None:
            return False
        budgets.remove_standing_cap(self.connection, key)
        self._record_cap(key, before, None)
        return True

    def _record_cap(self, key: BudgetKey, before: int | None, after: int | None) -> None:
        states = [None if cap is None else {"cap_nano_usd": cap} for cap in (before, after)]
        action = "budget.removed" if after is None else "budget.updated"
        self.record(action, key.tenant_id, f"{key.scope}:{key.scope_id}", *states)

    def set_limit(self, key: LimitKey, limit: OwnLimit | None) -> bool:
        """Give somebody limits of their own, or with None take them away; return whether there were some."""
        before = limits.find(self.connection, key)
        if limit != before:
            if limit is None:
                limits.remove(self.connection, key)
            else:
                limits.save(self.connection, key, limit, self.now)
            action = "limit.removed" if limit is None else "limit.updated"
            target = f"{key.scope}:{key.scope_id}" if key.scope_id else key.scope
            self.record(action, key.tenant_id, target, before, limit)
        return before is not None


def cap_nano_usd(budget_usd: Decimal) -> int:
    """Return a cap as exact nano-USD; raises InvalidRequest for what is no amount to cap a month with."""
    # The range is checked first: it refuses NaN and infinity, and quantize() fails on huge amounts.
    if not budget_usd.is_finite() or not 0 <= budget_usd <= _MAX_BUDGET_USD:
        raise InvalidRequest(f"budget_usd: expected an amount in USD from 0 to {_MAX_BUDGET_USD}")
    if budget_usd != budget_usd.quantize(_SMALLEST_USD):
        raise InvalidRequest("budget_usd: expected at most 9 decimal places, as nothing is counted finer than that")
    return nano_usd(budget_usd)


def checked(field: str, text: str, max_length: int) -> str:
    """Return a name or an id; raises InvalidRequest when it is empty, too long or not printable."""
    try:
        return printable(field, text, max_length)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
