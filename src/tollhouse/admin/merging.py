"""What a tenant's module becomes: how it begins, and how changes apply to it."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import UNSET

from tollhouse.admin.change import cap_nano_usd, checked
from tollhouse.admin.model import MAX_NAME, TenantChanges
from tollhouse.errors import InvalidRequest
from tollhouse.kit.clock import epoch_ms, utc_text
from tollhouse.tenants.model import TenantModule

# Times are compared as text, which sorts by time only with four-digit years.
_LATEST_MS = 253_402_300_799_999


class Tiers:
    """The configured tiers: each one's monthly budget in nano-USD."""

    def __init__(self, budgets_nano_usd: Mapping[str, int], default: str) -> None:
        self.budgets_nano_usd = budgets_nano_usd
        self._default = default

    def new_module(self, tenant_id: str, now: str) -> TenantModule:
        """Return a tenant's module as it begins: on the default tier, and off until activated."""
        return TenantModule(
            tenant_id=tenant_id,
            name="",
            tier=self._default,
            is_active=False,
            expires_at=None,
            budget_nano_usd=self._budget(self._default),
            has_own_budget=False,
            created_at=now,
            updated_at=now,
        )

    def merged(self, module: TenantModule, changes: TenantChanges) -> TenantModule:
        """Return a module with what is given of the changes; raises InvalidRequest for what it cannot become.

        The budget is the tenant's own once it was given one, and the tier's otherwise.
        """
        tier = module.tier if changes.tier is UNSET else changes.tier
        if tier != module.tier:
            self._budget(tier)
        has_own_budget = module.has_own_budget if changes.budget_usd is UNSET else changes.budget_usd is not None
        if isinstance(changes.budget_usd, Decimal):
            budget = cap_nano_usd(changes.budget_usd)
        elif (tier, has_own_budget) == (module.tier, module.has_own_budget) or has_own_budget:
            budget = module.budget_nano_usd
        else:
            budget = self._budget(tier)
        return msgspec.structs.replace(
            module,
            name=module.name if changes.name is UNSET else changes.name and checked("name", changes.name, MAX_NAME),
            tier=tier,
            is_active=module.is_active if changes.is_active is UNSET else changes.is_active,
            expires_at=module.expires_at if changes.expires_at is UNSET else _instant(changes.expires_at),
            budget_nano_usd=budget,
            has_own_budget=has_own_budget,
        )

    def _budget(self, tier: str) -> int:
        if tier not in self.budgets_nano_usd:
            known = ", ".join(sorted(self.budgets_nano_usd))
            raise InvalidRequest(f"tier: no tier {tier!r} is configured; expected one of {known}")
        return self.budgets_nano_usd[tier]


def _instant(moment: datetime | None) -> str | None:
    """Return a time as it is stored: ISO 8601 in UTC."""
    if moment is None:
        return None
    instant_ms = epoch_ms(moment)
    if not 0 <= instant_ms <= _LATEST_MS:
        raise InvalidRequest("expires_at: expected a time from the year 1970 to 9999")
    return utc_text(instant_ms)
