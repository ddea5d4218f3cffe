"""Writing to the audit log outside of another change's transaction."""

from typing import Any

from tollhouse.audit import store
from tollhouse.audit.model import AuditEntry
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

SYSTEM = "system"
"""The actor of what nobody asked for."""


class AuditLog:
    """Records events of the running service."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(self, action: str, *, tenant_id: str, target: str, before: Any, after: Any) -> None:
        """Write what the service did by itself; raises Unavailable when the database cannot be written."""
        now = utc_text(self._clock.now_ms())
        entry = AuditEntry(now, SYSTEM, action, tenant_id, target, before, after)
        await self._database.write(lambda connection: store.append(connection, entry))
