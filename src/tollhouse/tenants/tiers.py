"""Which tier a tenant is in, for choices that cost nobody money: the gate itself reads it in its own transaction."""

from tollhouse.kit.clock import Clock
from tollhouse.storage.database import Database
from tollhouse.tenants import store

_FRESH_S = 0.5
_MOST_KNOWN = 10_000


class TenantTiers:
    """Tiers as they were at most half a second ago."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[str | None, float]] = {}

    async def tier_of(self, tenant_id: str) -> str | None:
        """Return a tenant's tier; None for one that was never set up. Raises Unavailable."""
        known = self._known.get(tenant_id)
        now_s = self._clock.monotonic_s()
        if known is not None and known[1] > now_s:
            return known[0]
        module = await self._database.read(lambda connection: store.find(connection, tenant_id))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        tier = None if module is None else module.tier
        self._known[tenant_id] = (tier, now_s + _FRESH_S)
        return tier
