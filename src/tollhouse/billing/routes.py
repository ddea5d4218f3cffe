"""The addresses of usage. Every role may read it, each key its own tenants'."""

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from tollhouse.billing.model import GroupedUsage, TenantSpending, TotalUsage
from tollhouse.billing.service import UsageReports
from tollhouse.keys.model import Principal

_Service = NamedDependency[UsageReports]
_Caller = NamedDependency[Principal]
_Period = Annotated[str | None, QueryParameter(description="a calendar month (UTC) as YYYY-MM; the running one")]


class UsageRoutes(Controller):
    """Usage and spending."""

    path = "/ai/usage"
    tags = ("Usage",)

    @get()
    async def get_usage(
        self,
        usage: _Service,
        principal: _Caller,
        tenant_id: Annotated[str | None, QueryParameter(description="by default the key's only tenant")] = None,
        period: _Period = None,
        group_by: Annotated[
            str | None,
            QueryParameter(
                description="without it, one total",
                schema_extra={"enum": ["user", "feature", "model", "provider", "service", "day"]},
            ),
        ] = None,
    ) -> TotalUsage | GroupedUsage:
        """Return a tenant's usage of a month."""
        return await usage.of_tenant(principal, tenant_id=tenant_id, period=period, group_by=group_by)

    @get("/tenants")
    async def get_spending(self, usage: _Service, principal: _Caller, period: _Period = None) -> list[TenantSpending]:
        """Return what each tenant has spent of its budget in a month; for super-admins."""
        return await usage.of_tenants(principal, period=period)
