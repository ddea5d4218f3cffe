"""Writing to the audit log outside of another change's transaction."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tollhouse.audit import store
from tollhouse.audit.model import AuditEntry
from tollhouse.errors import Unavailable
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

SYSTEM = "system"
"""The actor of what nobody asked for."""

_MAX_WAITING = 10_000


class AuditLog:
    """Records events of the running service.

    All entries are one chain, so that its writers come one after the other. What is recorded while a transaction
    commits goes into the next one together: an outage that makes thousands of calls a second go elsewhere does not
    make each of them wait for thousands of commits.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._waiting: list[AuditEntry] = []
        self._gathering: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[None] | None = None

    async def record(self, action: str, *, tenant_id: str, target: str, before: Any, after: Any) -> None:
        """Write what the service did by itself; it is durable on return.

        Args:
            action: what was done, as ``thing.verb``.
            tenant_id: whom it concerns, or "".
            target: what it was done to.
            before: the state before, as anything that JSON can tell; None where there was none. Never a secret.
            after: the state after, likewise.

        Raises:
            Unavailable: the database cannot be written, or too much waits for it.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise Unavailable("too much waits for the audit log; try again shortly", retry_after_s=1)
        now = utc_text(self._clock.now_ms())
        self._waiting.append(AuditEntry(now, SYSTEM, action, tenant_id, target, before, after))
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._write_after(self._committing))
        # Others wait for it too: one that leaves must not end it.
        await asyncio.shield(self._gathering)

    async def _write_after(self, other: "asyncio.Task[None] | None") -> None:
        """Gather entries until another batch is committed, then write them."""
        if other is not None:
            await asyncio.wait({other})
        entries, self._waiting = self._waiting, []
        self._committing, self._gathering = self._gathering, None
        await self.record_all(entries)

    async def record_all(self, entries: Sequence[AuditEntry]) -> None:
        """Write several entries in one transaction; raises as ``record``."""
        await self._database.write(lambda connection: store.append_all(connection, entries))
