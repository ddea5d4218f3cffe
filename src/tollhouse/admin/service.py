"""What administrators do. Each change is one transaction, with its entry in the audit log."""

from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from tollhouse.admin.change import Change, cap_nano_usd, checked, take_turn
from tollhouse.admin.merging import Tiers
from tollhouse.admin.model import (
    AuditPage,
    AuditRecord,
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
from tollhouse.audit import store as audit
from tollhouse.audit.export import export
from tollhouse.audit.service import SYSTEM
from tollhouse.budgets import store as budgets
from tollhouse.budgets.model import BudgetKey
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.errors import InvalidRequest, NotFound
from tollhouse.keys import store as keys
from tollhouse.keys.model import ServiceKey
from tollhouse.keys.service import Keyring, new_api_key
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.ids import id_text, id_value, new_id
from tollhouse.kit.scopes import Scope
from tollhouse.kit.validation import MAX_ID, MAX_SLUG
from tollhouse.limits import store as limits
from tollhouse.limits.model import OWN_FIELDS, LimitKey
from tollhouse.storage.database import Database
from tollhouse.tenants import store as tenants
from tollhouse.tenants.model import Feature, TenantModule

T = TypeVar("T")

_SCOPES: Mapping[str, Scope] = {"user": "user", "feature": "feature"}


class Administration:
    """Tenants, features, caps, limits, keys and the audit log.

    Every method that changes something takes the ``actor``: the id of the key that asks for it.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Clock,
        *,
        tiers: Mapping[str, int],
        default_tier: str,
        thresholds: Thresholds,
    ) -> None:
        """``tiers`` maps tiers to budgets in nano-USD; ``thresholds`` are told of once that much of a cap is spent."""
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._tiers = Tiers(tiers, default_tier)
        self._thresholds = thresholds

    # Tenants.

    async def put_tenant(self, tenant_id: str, changes: TenantChanges, actor: str) -> Tenant:
        """Create a tenant, or change what is given of it. Its cap holds at once, in the running month too.

        Raises:
            InvalidRequest: a value is out of range, or the tier is not configured.
        """
        checked("tenant_id", tenant_id, MAX_ID)

        def work(change: Change) -> TenantModule:
            before = tenants.find(change.connection, tenant_id)
            after = self._tiers.merged(before or self._tiers.new_module(tenant_id, change.now), changes)
            if after != before:
                after = msgspec.structs.replace(after, updated_at=change.now)
                tenants.save(change.connection, after)
                budgets.set_tenant_cap(change.connection, tenant_id, change.period, after.budget_nano_usd)
                change.tell_thresholds("tenant", [(tenant_id, "")])
                action = "tenant.created" if before is None else "tenant.updated"
                change.record(action, tenant_id, tenant_id, before, after)
            return after

        return Tenant.of(await self._change(actor, work))

    async def tenant(self, tenant_id: str) -> Tenant:
        """Return a tenant; raises NotFound."""
        return Tenant.of(await self._look(lambda view: view.tenant(tenant_id)))

    async def tenants(self, *, after: str, limit: int) -> TenantPage:
        """Return up to ``limit`` tenants whose id sorts after ``after`` ("" for the first page)."""
        found = await self._database.read(lambda connection: tenants.page(connection, after=after, limit=limit + 1))
        next_after = found[limit - 1].tenant_id if len(found) > limit else None
        return TenantPage([Tenant.of(module) for module in found[:limit]], next_after)

    async def follow_tiers(self) -> None:
        """Give the tenants whose budget is their tier's what the configuration says now. For the start."""

        def work(change: Change) -> None:
            for tier, budget in self._tiers.budgets_nano_usd.items():
                if not tenants.is_behind_tier(change.connection, tier, budget):
                    continue
                budgets.hold_all_calls(change.connection)
                before = tenants.follow_tier(change.connection, tier, budget)
                budgets.set_tenant_caps(change.connection, before, change.period, budget)
                change.tell_thresholds("tenant", {(tenant_id, "") for tenant_id in before})
                for tenant_id, old in before.items():
                    change.record("tenant.updated", tenant_id, tenant_id, _budget_state(old), _budget_state(budget))

        await self._change(SYSTEM, work)

    # Features.

    async def put_feature(
        self, tenant_id: str, feature_slug: str, changes: FeatureChanges, actor: str
    ) -> FeatureSwitch:
        """Switch a tenant's feature, or cap it; a new switch is on unless given as off.

        Raises:
            NotFound: there is no such tenant.
            InvalidRequest: nothing is given, or a value is out of range.
        """
        checked("feature_slug", feature_slug, MAX_SLUG)
        if changes.is_enabled is UNSET and changes.budget_usd is UNSET:
            raise InvalidRequest("is_enabled: is required, unless budget_usd is given")

        def work(change: Change) -> FeatureSwitch:
            change.tenant(tenant_id)
            before = tenants.find_feature(change.connection, tenant_id, feature_slug)
            was_enabled = before is None or before.is_enabled
            is_enabled = was_enabled if changes.is_enabled is UNSET else changes.is_enabled
            after = before
            if after is None or after.is_enabled != is_enabled:
                budgets.hold_calls(change.connection, change.budget_key(tenant_id, "tenant", ""))
                after = Feature(tenant_id, feature_slug, is_enabled, change.now)
                tenants.save_feature(change.connection, after)
                state = None if before is None else {"is_enabled": before.is_enabled}
                change.record("feature.updated", tenant_id, feature_slug, state, {"is_enabled": is_enabled})
            key = change.budget_key(tenant_id, "feature", feature_slug)
            if changes.budget_usd is None:
                change.lift_cap(key)
            elif changes.budget_usd is not UNSET:
                change.set_cap(key, cap_nano_usd(changes.budget_usd))
            return FeatureSwitch.of(after, budgets.standing_cap(change.connection, key))

        return await self._change(actor, work)

    async def features(self, tenant_id: str) -> FeatureList:
        """Return a tenant's feature switches; raises NotFound."""

        def work(view: Change) -> FeatureList:
            view.tenant(tenant_id)
            caps = budgets.standing_caps(view.connection, tenant_id, view.period)
            found = [
                FeatureSwitch.of(feature, caps.get(view.budget_key(tenant_id, "feature", feature.feature_slug)))
                for feature in tenants.features(view.connection, tenant_id)
            ]
            return FeatureList(id_value(tenant_id), found)

        return await self._look(work)

    # Caps.

    async def budgets(self, tenant_id: str) -> BudgetList:
        """Return a tenant's caps and what counts against them in the running month; raises NotFound."""

        def work(view: Change) -> BudgetList:
            own = view.budget_key(tenant_id, "tenant", "")
            caps = {own: view.tenant(tenant_id).budget_nano_usd}
            caps |= budgets.standing_caps(view.connection, tenant_id, view.period)
            states = [BudgetState.of(key, view.budget(key, cap)) for key, cap in caps.items()]
            return BudgetList(id_value(tenant_id), view.period, states)

        return await self._look(work)

    async def put_budget(
        self, tenant_id: str, scope: str, scope_id: str, budget_usd: Decimal, actor: str
    ) -> BudgetState:
        """Cap a user or a feature of a tenant by the month; what was spent in the running one counts.

        Raises:
            NotFound: there is no such tenant.
            InvalidRequest: the scope, the id or the amount is not one.
        """
        kind = _scope(scope)
        checked("scope_id", scope_id, MAX_ID if kind == "user" else MAX_SLUG)
        cap = cap_nano_usd(budget_usd)

        def work(change: Change) -> BudgetState:
            change.tenant(tenant_id)
            return _capped(change, change.budget_key(tenant_id, kind, scope_id), cap)

        return await self._change(actor, work)

    async def remove_budget(self, tenant_id: str, scope: str, scope_id: str, actor: str) -> None:
        """Lift the cap of a user or a feature; raises NotFound when there is none."""
        kind = _scope(scope)

        def work(change: Change) -> None:
            if not change.lift_cap(change.budget_key(tenant_id, kind, scope_id)):
                raise NotFound(f"{change.budget_key(tenant_id, kind, scope_id).describe()} has no cap")

        await self._change(actor, work)

    async def put_key_budget(self, key_id: str, budget_usd: Decimal, actor: str) -> BudgetState:
        """Cap what a service key may spend by the month, over all its tenants; raises NotFound, InvalidRequest."""
        cap = cap_nano_usd(budget_usd)

        def work(change: Change) -> BudgetState:
            change.service_key(key_id)
            return _capped(change, change.budget_key("", "key", key_id), cap)

        return await self._change(actor, work)

    async def remove_key_budget(self, key_id: str, actor: str) -> None:
        """Lift a service key's cap; raises NotFound when there is none."""

        def work(change: Change) -> None:
            if not change.lift_cap(change.budget_key("", "key", key_id)):
                raise NotFound(f"service key {key_id} has no cap")

        await self._change(actor, work)

    # Limits.

    async def limits(self, tenant_id: str) -> LimitList:
        """Return what limits a tenant, its users and features have of their own; raises NotFound."""

        def work(view: Change) -> LimitList:
            view.tenant(tenant_id)
            found = limits.of_tenant(view.connection, tenant_id)
            return LimitList(id_value(tenant_id), [LimitState.of(*each) for each in found.items()])

        return await self._look(work)

    async def put_limits(
        self, tenant_id: str, scope: str, scope_id: str, changes: LimitChange, actor: str
    ) -> LimitState:
        """Give a tenant ("tenant" and ""), or a user or a feature of it, limits of its own.

        Raises:
            NotFound: there is no such tenant.
            InvalidRequest: the scope or the id is not one, or no limit is given.
        """
        key = _limit_key(tenant_id, scope, scope_id)

        def work(change: Change) -> LimitState:
            change.tenant(tenant_id)
            return _limited(change, key, changes)

        return await self._change(actor, work)

    async def remove_limits(self, tenant_id: str, scope: str, scope_id: str, actor: str) -> None:
        """Take such limits away; raises NotFound when there are none."""
        await self._remove_limit(_limit_key(tenant_id, scope, scope_id), actor)

    async def put_key_limits(self, key_id: str, changes: LimitChange, actor: str) -> LimitState:
        """Give a service key limits of its own, over all its tenants; raises NotFound, InvalidRequest."""

        def work(change: Change) -> LimitState:
            change.service_key(key_id)
            return _limited(change, LimitKey("", "key", key_id), changes)

        return await self._change(actor, work)

    async def key_limits(self, key_id: str) -> LimitState:
        """Return the limits that a service key has of its own; raises NotFound when there are none."""
        key = LimitKey("", "key", key_id)
        found = await self._database.read(lambda connection: limits.find(connection, key))
        if found is None:
            raise _no_limits(key)
        return LimitState.of(key, found)

    async def remove_key_limits(self, key_id: str, actor: str) -> None:
        """Take such limits away; raises NotFound when there are none."""
        await self._remove_limit(LimitKey("", "key", key_id), actor)

    async def _remove_limit(self, key: LimitKey, actor: str) -> None:
        def work(change: Change) -> None:
            if not change.set_limit(key, None):
                raise _no_limits(key)

        await self._change(actor, work)

    # Keys.

    async def create_key(self, request: KeyRequest, actor: str) -> NewKey:
        """Make a service key; it is returned this once, and can call at once.

        Raises:
            InvalidRequest: a super-admin key is bound to tenants, or a value is out of range.
        """
        if request.role == "super-admin" and request.tenants is not None:
            raise InvalidRequest("tenants: a super-admin key acts for every tenant; expected null, or another role")
        now_ms = self._clock.now_ms()
        api_key = new_api_key()
        key = ServiceKey(
            key_id=new_id("key", now_ms),
            service=checked("service", request.service, MAX_SLUG),
            role=request.role,
            tenants=_tenant_ids(request),
            feature_slug=checked("feature_slug", request.feature_slug, MAX_SLUG) if request.feature_slug else "",
            digest=self._keyring.digest(api_key).hex(),
            created_at=utc_text(now_ms),
            revoked_at=None,
        )
        cap = None if request.budget_usd is None else cap_nano_usd(request.budget_usd)

        def work(change: Change) -> None:
            keys.add(change.connection, key)
            change.record("key.created", "", key.key_id, None, _state(key))
            if cap is not None:
                change.set_cap(change.budget_key("", "key", key.key_id), cap)

        await self._change(actor, work)
        self._keyring.accept(key)
        return NewKey(**msgspec.structs.asdict(Key.of(key, cap)), key=api_key)

    async def keys(self) -> KeyList:
        """Return all service keys, revoked ones too."""

        def work(view: Change) -> KeyList:
            caps = budgets.standing_caps(view.connection, "", view.period)
            found = keys.everything(view.connection)
            return KeyList([Key.of(key, caps.get(view.budget_key("", "key", key.key_id))) for key in found])

        return await self._look(work)

    async def revoke_key(self, key_id: str, actor: str) -> Key:
        """Refuse a key from now on; raises NotFound. A key that is revoked already stays as it is."""

        def work(change: Change) -> tuple[ServiceKey, int | None]:
            key = change.service_key(key_id)
            if key.revoked_at is None:
                keys.revoke(change.connection, key_id, change.now)
                key = msgspec.structs.replace(key, revoked_at=change.now)
                change.record("key.revoked", "", key_id, {"revoked_at": None}, {"revoked_at": change.now})
            return key, budgets.standing_cap(change.connection, change.budget_key("", "key", key_id))

        key, cap = await self._change(actor, work)
        self._keyring.refuse(key)
        return Key.of(key, cap)

    # The audit log.

    async def audit(self, *, tenant_id: str | None, action: str | None, before_id: int | None, limit: int) -> AuditPage:
        """Return up to ``limit`` entries, the newest first, of those older than ``before_id``."""
        found = await self._database.read(
            lambda connection: audit.page(
                connection, tenant_id=tenant_id, action=action, before_id=before_id, limit=limit + 1
            )
        )
        entries = [AuditRecord.of(entry_id, entry) for entry_id, entry in found[:limit]]
        return AuditPage(entries, entries[-1].id if len(found) > limit else None)

    async def audit_export(self, *, tenant_id: str | None, action: str | None, after_id: int) -> AsyncIterator[bytes]:
        """Return the entries after one as JSON lines, the oldest first; the first piece is read at once."""
        pieces = export(self._database, tenant_id=tenant_id, action=action, after_id=after_id)
        first = await anext(pieces, b"")

        async def all_pieces() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        return all_pieces()

    async def _change(self, actor: str, work: Callable[[Change], T]) -> T:
        def change(connection: sa.Connection) -> T:
            take_turn(connection)
            made = Change(connection, self._clock.now_ms(), actor, self._thresholds)
            result = work(made)
            made.write_audit()
            return result

        return await self._database.write(change)

    async def _look(self, work: Callable[[Change], T]) -> T:
        return await self._database.read(
            lambda connection: work(Change(connection, self._clock.now_ms(), "", self._thresholds))
        )


def _scope(text: str) -> Scope:
    if text not in _SCOPES:
        raise InvalidRequest(f"scope: expected one of {', '.join(_SCOPES)}")
    return _SCOPES[text]


def _capped(change: Change, key: BudgetKey, cap: int) -> BudgetState:
    change.set_cap(key, cap)
    return BudgetState.of(key, change.budget(key, cap))


def _limit_key(tenant_id: str, scope: str, scope_id: str) -> LimitKey:
    if scope == "tenant":
        return LimitKey(tenant_id, "tenant", "")
    kind = _scope(scope)
    return LimitKey(tenant_id, kind, checked("scope_id", scope_id, MAX_ID if kind == "user" else MAX_SLUG))


def _limited(change: Change, key: LimitKey, changes: LimitChange) -> LimitState:
    limit = changes.limit
    if not limit.names:
        raise InvalidRequest(f"expected at least one of {', '.join(OWN_FIELDS)}; DELETE takes limits away")
    change.set_limit(key, limit)
    return LimitState.of(key, limit)


def _no_limits(key: LimitKey) -> NotFound:
    return NotFound(f"{key.describe()} has no limits of its own")


def _tenant_ids(request: KeyRequest) -> tuple[str, ...] | None:
    """Return the tenants of a key as they are stored, each once."""
    if request.tenants is None:
        return None
    return tuple(dict.fromkeys(checked("tenants", id_text(tenant_id), MAX_ID) for tenant_id in request.tenants))


def _budget_state(budget_nano_usd: int) -> dict[str, int]:
    return {"budget_nano_usd": budget_nano_usd}


def _state(key: ServiceKey) -> dict[str, object]:
    """Return a new key's state for the audit log: without its digest, and what is yet to come."""
    state = msgspec.structs.asdict(key)
    del state["digest"], state["first_used_at"]
    return state
