"""Usage and spending, as the caller may see them."""

import re
from typing import Any

from tollhouse.billing.model import GroupedUsage, TenantSpending, TotalUsage, UsageGroup
from tollhouse.budgets.model import percentage
from tollhouse.errors import Forbidden, InvalidRequest, TenantForbidden
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock, billing_period
from tollhouse.kit.ids import id_value
from tollhouse.kit.money import usd
from tollhouse.kit.validation import MAX_ID, printable
from tollhouse.metering import store as metering
from tollhouse.metering.store import Spending, UsageSum
from tollhouse.storage.database import Database

_PERIOD = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")

# For each way to group: the name of the list, and of the key in its groups.
_NAMES = {
    "user": ("users", "user_id"),
    "feature": ("features", "feature_slug"),
    "model": ("models", "model"),
    "provider": ("providers", "provider"),
    "service": ("services", "service"),
    "day": ("days", "day"),
}


class UsageReports:
    """Reads the rollups that the ledger keeps, so that a month costs the same to read however many calls it had."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def of_tenant(
        self, principal: Principal, *, tenant_id: str | None, period: str | None, group_by: str | None
    ) -> TotalUsage | GroupedUsage:
        """Return a tenant's usage of a month; by default the key's own tenant, the running month, one total.

        Raises:
            TenantForbidden: the key may not read this tenant.
            InvalidRequest: the tenant is not named, or the period or the grouping is not one.
        """
        whose = _whose(principal, tenant_id)
        month = self._month(period)
        if group_by is not None and group_by not in _NAMES:
            raise InvalidRequest(f"group_by: expected one of {', '.join(_NAMES)}, or nothing for one total")
        sums = await self._database.read(lambda connection: metering.usage(connection, whose, month, group_by))
        if group_by is None:
            return TotalUsage(period=month, tenant_id=id_value(whose), **_counts(sums[0]))
        name, key = _NAMES[group_by]
        groups = [UsageGroup(**{key: _key_value(group_by, each.group)}, **_counts(each)) for each in sums]
        return GroupedUsage(period=month, tenant_id=id_value(whose), **{name: groups})

    async def of_tenants(self, principal: Principal, *, period: str | None) -> list[TenantSpending]:
        """Return what each tenant has spent of its budget in a month, by default the running one.

        Raises:
            Forbidden: the key is not a super-admin's.
            InvalidRequest: the period is not one.
        """
        if not principal.is_super_admin:
            raise Forbidden("the spending of all tenants is for super-admin keys; GET /ai/usage reads one tenant's")
        month = self._month(period)
        is_running = month == billing_period(self._clock.now_ms())
        found = await self._database.read(
            lambda connection: metering.spending(connection, month, with_idle_tenants=is_running)
        )
        return [_spending(each) for each in found]

    def _month(self, period: str | None) -> str:
        if period is None:
            return billing_period(self._clock.now_ms())
        if not _PERIOD.fullmatch(period):
            raise InvalidRequest("period: expected a calendar month as YYYY-MM, such as 2026-04")
        return period


def _whose(principal: Principal, tenant_id: str | None) -> str:
    if tenant_id is None:
        if principal.only_tenant is None:
            raise InvalidRequest("tenant_id: is required, as this key is not bound to one tenant")
        return principal.only_tenant
    try:
        printable("tenant_id", tenant_id, MAX_ID)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if not principal.may_act_for(tenant_id):
        raise TenantForbidden(f"this key may not read the usage of tenant {tenant_id}", tenant_id=tenant_id)
    return tenant_id


def _key_value(group_by: str, group: str) -> Any:
    """Return the key of a group as callers know it."""
    return (id_value(group) if group else None) if group_by == "user" else group


def _counts(total: UsageSum) -> dict[str, Any]:
    return {
        "calls": total.calls,
        "tokens": total.total_tokens,
        "cost_usd": usd(total.cost_nano_usd),
        "input_tokens": total.input_tokens,
        "cached_input_tokens": total.cached_input_tokens,
        "cache_write_tokens": total.cache_write_tokens,
        "output_tokens": total.output_tokens,
        "reasoning_tokens": total.reasoning_tokens,
        "media_tokens": total.media_tokens,
        "unknown_calls": total.unknown_calls,
        "unknown_usd": usd(total.unknown_nano_usd),
    }


def _spending(spending: Spending) -> TenantSpending:
    return TenantSpending(
        tenant_id=id_value(spending.tenant_id),
        tier=spending.tier,
        budget_usd=usd(spending.cap_nano_usd),
        spent_usd=usd(spending.posted_nano_usd),
        pct_used=percentage(spending.posted_nano_usd, spending.cap_nano_usd),
        reserved_usd=usd(spending.reserved_nano_usd),
    )
