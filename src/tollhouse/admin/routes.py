"""The administrators' addresses. Whoever mounts them lets super-admins alone through."""

from typing import Annotated, Any, cast

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from tollhouse.admin.body import ExactRequest
from tollhouse.admin.model import (
    AuditPage,
    BudgetChange,
    BudgetList,
    BudgetState,
    FeatureChanges,
    FeatureList,
    FeatureSwitch,
    Key,
    KeyList,
    KeyRequest,
    LimitChange,
    LimitList,
    LimitState,
    NewKey,
    Tenant,
    TenantChanges,
    TenantPage,
)
from tollhouse.admin.service import Administration
from tollhouse.keys.model import Principal

_Service = NamedDependency[Administration]
_Caller = NamedDependency[Principal]
_Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="how many to return at most")]
_OfTenant = Annotated[str | None, QueryParameter(description="only what concerns this tenant")]
_OfAction = Annotated[str | None, QueryParameter(description="only this action, e.g. key.revoked")]
_JSON_LINES = "application/x-ndjson"


class TenantRoutes(Controller):
    """Tenants, their features, caps and limits."""

    path = "/admin/tenants"
    tags = ("Tenants",)
    request_class = ExactRequest

    @get()
    async def list_tenants(
        self,
        administration: _Service,
        after: Annotated[str, QueryParameter(description="the id to go on after, from next_after")] = "",
        limit: _Limit = 100,
    ) -> TenantPage:
        """List the tenants."""
        return await administration.tenants(after=after, limit=limit)

    @get("/{tenant_id:str}")
    async def get_tenant(self, administration: _Service, tenant_id: FromPath[str]) -> Tenant:
        """Return a tenant."""
        return await administration.tenant(tenant_id)

    @put("/{tenant_id:str}")
    async def put_tenant(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        data: JSONBody[TenantChanges],
    ) -> Tenant:
        """Create a tenant, or change what is given of it."""
        return await administration.put_tenant(tenant_id, data, principal.key_id)

    @get("/{tenant_id:str}/features")
    async def list_features(self, administration: _Service, tenant_id: FromPath[str]) -> FeatureList:
        """List a tenant's feature switches; a feature without one is on."""
        return await administration.features(tenant_id)

    @put("/{tenant_id:str}/features/{feature_slug:str}")
    async def put_feature(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        feature_slug: FromPath[str],
        data: JSONBody[FeatureChanges],
    ) -> FeatureSwitch:
        """Switch a feature on or off for a tenant, or cap it by the month."""
        return await administration.put_feature(tenant_id, feature_slug, data, principal.key_id)

    @get("/{tenant_id:str}/budgets")
    async def list_budgets(self, administration: _Service, tenant_id: FromPath[str]) -> BudgetList:
        """List a tenant's caps, and what counts against each in the running month."""
        return await administration.budgets(tenant_id)

    @put("/{tenant_id:str}/budgets/{budget_scope:str}/{scope_id:str}")
    async def put_budget(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        budget_scope: FromPath[str],
        scope_id: FromPath[str],
        data: JSONBody[BudgetChange],
    ) -> BudgetState:
        """Cap a user or a feature of a tenant by the month; ``budget_scope`` is user or feature."""
        return await administration.put_budget(tenant_id, budget_scope, scope_id, data.budget_usd, principal.key_id)

    @delete("/{tenant_id:str}/budgets/{budget_scope:str}/{scope_id:str}")
    async def delete_budget(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        budget_scope: FromPath[str],
        scope_id: FromPath[str],
    ) -> None:
        """Lift the cap of a user or a feature."""
        await administration.remove_budget(tenant_id, budget_scope, scope_id, principal.key_id)

    @get("/{tenant_id:str}/limits")
    async def list_limits(self, administration: _Service, tenant_id: FromPath[str]) -> LimitList:
        """List the limits that a tenant, its users and its features have of their own."""
        return await administration.limits(tenant_id)

    @put("/{tenant_id:str}/limits")
    async def put_tenant_limits(
        self, administration: _Service, principal: _Caller, tenant_id: FromPath[str], data: JSONBody[LimitChange]
    ) -> LimitState:
        """Give a tenant limits of its own, in the place of the configured ones."""
        return await administration.put_limits(tenant_id, "tenant", "", data, principal.key_id)

    @delete("/{tenant_id:str}/limits")
    async def delete_tenant_limits(
        self, administration: _Service, principal: _Caller, tenant_id: FromPath[str]
    ) -> None:
        """Let the configured limits hold for a tenant again."""
        await administration.remove_limits(tenant_id, "tenant", "", principal.key_id)

    @put("/{tenant_id:str}/limits/{limit_scope:str}/{scope_id:str}")
    async def put_limits(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        limit_scope: FromPath[str],
        scope_id: FromPath[str],
        data: JSONBody[LimitChange],
    ) -> LimitState:
        """Give a user or a feature of a tenant limits of its own; ``limit_scope`` is user or feature."""
        return await administration.put_limits(tenant_id, limit_scope, scope_id, data, principal.key_id)

    @delete("/{tenant_id:str}/limits/{limit_scope:str}/{scope_id:str}")
    async def delete_limits(
        self,
        administration: _Service,
        principal: _Caller,
        tenant_id: FromPath[str],
        limit_scope: FromPath[str],
        scope_id: FromPath[str],
    ) -> None:
        """Let the configured limits hold for a user or a feature again."""
        await administration.remove_limits(tenant_id, limit_scope, scope_id, principal.key_id)


class KeyRoutes(Controller):
    """Service keys."""

    path = "/admin/keys"
    tags = ("Keys",)
    request_class = ExactRequest

    @get()
    async def list_keys(self, administration: _Service) -> KeyList:
        """List the service keys, revoked ones too."""
        return await administration.keys()

    @post(status_code=200)
    async def create_key(self, administration: _Service, principal: _Caller, data: JSONBody[KeyRequest]) -> NewKey:
        """Make a service key; the answer shows it this once."""
        return await administration.create_key(data, principal.key_id)

    @delete("/{key_id:str}", status_code=200)
    async def revoke_key(self, administration: _Service, principal: _Caller, key_id: FromPath[str]) -> Key:
        """Revoke a key: from now on it is refused."""
        return await administration.revoke_key(key_id, principal.key_id)

    @put("/{key_id:str}/budget")
    async def put_key_budget(
        self,
        administration: _Service,
        principal: _Caller,
        key_id: FromPath[str],
        data: JSONBody[BudgetChange],
    ) -> BudgetState:
        """Cap what a key may spend by the month, over all its tenants."""
        return await administration.put_key_budget(key_id, data.budget_usd, principal.key_id)

    @delete("/{key_id:str}/budget")
    async def delete_key_budget(self, administration: _Service, principal: _Caller, key_id: FromPath[str]) -> None:
        """Lift a key's cap."""
        await administration.remove_key_budget(key_id, principal.key_id)

    @get("/{key_id:str}/limits")
    async def get_key_limits(self, administration: _Service, key_id: FromPath[str]) -> LimitState:
        """Return the limits that a key has of its own."""
        return await administration.key_limits(key_id)

    @put("/{key_id:str}/limits")
    async def put_key_limits(
        self, administration: _Service, principal: _Caller, key_id: FromPath[str], data: JSONBody[LimitChange]
    ) -> LimitState:
        """Give a key limits of its own, over all its tenants, in the place of the configured ones."""
        return await administration.put_key_limits(key_id, data, principal.key_id)

    @delete("/{key_id:str}/limits")
    async def delete_key_limits(self, administration: _Service, principal: _Caller, key_id: FromPath[str]) -> None:
        """Let the configured limits hold for a key again."""
        await administration.remove_key_limits(key_id, principal.key_id)


class AuditRoutes(Controller):
    """The audit log."""

    path = "/admin/audit"
    tags = ("Audit",)

    @get()
    async def list_entries(
        self,
        administration: _Service,
        tenant_id: _OfTenant = None,
        action: _OfAction = None,
        before_id: Annotated[
            int | None, QueryParameter(ge=0, le=2**63 - 1, description="only older ones, from next_before_id")
        ] = None,
        limit: _Limit = 100,
    ) -> AuditPage:
        """List what was changed, by whom, and when; the newest first."""
        return await administration.audit(tenant_id=tenant_id, action=action, before_id=before_id, limit=limit)

    @get("/export", responses={200: ResponseSpec(bytes, generate_examples=False, media_type=_JSON_LINES)})
    async def export_entries(
        self,
        administration: _Service,
        tenant_id: _OfTenant = None,
        action: _OfAction = None,
        after_id: Annotated[int, QueryParameter(ge=0, le=2**63 - 1, description="only entries after this one")] = 0,
    ) -> Response[bytes]:
        """Return entries with their hashes as JSON lines, the oldest first."""
        pieces = await administration.audit_export(tenant_id=tenant_id, action=action, after_id=after_id)
        answer: Any = Stream(pieces, media_type=_JSON_LINES)
        return cast("Response[bytes]", answer)
