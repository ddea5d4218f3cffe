"""Writing to the audit log outside of another change's transaction."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tollhouse.audit import store
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.telling import events_of
from tollhouse.events import outbox
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

SYSTEM = "system"
"""The actor of what nobody asked for."""


class AuditLog:
    """Records events of the running service.

    All entries are one chain, so that its writers come one after the other: what comes often is gathered first, and
    recorded together (``AuditJournal``).
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(self, action: str, *, tenant_id: str, target: str, before: Any, after: Any) -> None:
        """Write what the service did by itself; it is durable on return.

        Args:
            action: what was done, as ``thing.verb``.
            tenant_id: whom it concerns, or "".
            target: what it was done to.
            before: the state before, as anything that JSON can tell; None where there was none. Never a secret.
            after: the state after, likewise.

        Raises:
            Unavailable: the database cannot be written.
        """
        now = utc_text(self._clock.now_ms())
        await self.record_all([AuditEntry(now, SYSTEM, action, tenant_id, target, before, after)])

    async def record_all(self, entries: Sequence[AuditEntry]) -> None:
        """Write several entries in one transaction, and the events that tell of them; raises as ``record``."""

        def work(connection: sa.Connection) -> None:
            outbox.append_all(connection, events_of(entries))
            # Last, since nobody else can write to the audit log from then on.
            store.append_all(connection, entries)

        await self._database.write(work)
