"""Events of the running service that may come by the hundred a second, on their way to the audit log.

They are taken down in memory, on the path of a call, and written by the service's own duty: the first at once, those
that follow within the next second as one entry with their number. A crash loses what was taken down within that second.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from tollhouse.audit.model import AuditEntry
from tollhouse.audit.service import SYSTEM, AuditLog
from tollhouse.errors import Unavailable
from tollhouse.kit.clock import Clock, utc_text

_WRITE_EVERY_S = 1.0
# Kinds of events at once. The database has to be away, or thousands of tenants to fail over in the same second.
_MOST_PENDING = 10_000
_MOST_NAMED = 20
_LOG = structlog.get_logger("tollhouse.audit")


class _Pending:
    """Events of one kind that are one entry."""

    __slots__ = ("action", "after", "before", "count", "first_ms", "last_ms", "named", "tenant_id")

    def __init__(self, action: str, tenant_id: str, before: Any, after: Mapping[str, Any], now_ms: int) -> None:
        self.action = action
        self.tenant_id = tenant_id
        self.before = before
        self.after = after
        self.first_ms = now_ms
        self.last_ms = now_ms
        self.count = 0
        self.named: list[str] = []

    def entry(self) -> AuditEntry:
        after = {
            **self.after,
            "count": self.count,
            "first_at": utc_text(self.first_ms),
            "last_at": utc_text(self.last_ms),
            "targets": self.named,
        }
        return AuditEntry(
            utc_text(self.first_ms), SYSTEM, self.action, self.tenant_id, self.named[0], self.before, after
        )


class AuditJournal:
    """Takes events down, and writes them later."""

    def __init__(self, audit: AuditLog, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._pending: dict[tuple[str, ...], _Pending] = {}
        self._lost = 0
        self._is_wanted = asyncio.Event()

    def note(
        self, action: str, kind: tuple[str, ...], *, tenant_id: str, target: str, before: Any, after: Mapping[str, Any]
    ) -> None:
        """Take an event down.

        Args:
            kind: events of one action, tenant and kind are one entry, which tells their number and the first targets.
            before: the state before, and
            after: after it; of events that are one entry, those of the first are written.
        """
        key = (action, tenant_id, *kind)
        now_ms = self._clock.now_ms()
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= _MOST_PENDING:
                self._lost += 1
                return
            pending = self._pending[key] = _Pending(action, tenant_id, before, after, now_ms)
            self._is_wanted.set()
        pending.count += 1
        pending.last_ms = now_ms
        if len(pending.named) < _MOST_NAMED:
            pending.named.append(target)

    async def keep_writing(self) -> None:
        """Write until cancelled."""
        while True:
            await self._is_wanted.wait()
            try:
                await self.flush()
            except Unavailable as error:
                _LOG.warning("events are entered into the audit log later", reason=error.message)
            await asyncio.sleep(_WRITE_EVERY_S)

    async def flush(self) -> None:
        """Write what there is; what fails is kept. Raises Unavailable while the database cannot be written."""
        self._is_wanted.clear()
        pending, self._pending = self._pending, {}
        if self._lost:
            _LOG.error("events are missing in the audit log: too many kinds of them came at once", events=self._lost)
            self._lost = 0
        if not pending:
            return
        try:
            await self._audit.record_all([each.entry() for each in pending.values()])
        except Exception:
            # Ahead of what has come meanwhile, so that the order stays.
            for key, later in self._pending.items():
                if key in pending:
                    _merge(pending[key], later)
                else:
                    pending[key] = later
            self._pending = pending
            self._is_wanted.set()
            raise


def _merge(earlier: _Pending, later: _Pending) -> None:
    earlier.count += later.count
    earlier.last_ms = later.last_ms
    earlier.named += later.named[: _MOST_NAMED - len(earlier.named)]
