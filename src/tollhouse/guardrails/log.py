"""Findings on record: counted at once, and written soon, many in one transaction.

No call waits for it. What a crash loses of it is a moment's, and no money.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Any

import structlog

from tollhouse.errors import TollhouseError
from tollhouse.guardrails import store
from tollhouse.guardrails.findings import Findings
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database
from tollhouse.telemetry.metrics import Metrics

_MOST_WAITING = 20_000
_AT_ONCE = 1_000
_RETRY_EVERY_S = 1.0
_LOG = structlog.get_logger("tollhouse.guardrails")


class FindingsLog:
    """Writes what guardrails found in each call to ``ai_guardrail_findings``."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._waiting: deque[dict[str, Any]] = deque()
        self._has_some = asyncio.Event()
        self._is_full = False

    def note(self, findings: Findings, *, request_id: str, tenant_id: str, user_id: str, feature_slug: str) -> None:
        """Count what was found in a call, and have it written."""
        created_at = utc_text(self._clock.now_ms())
        for each in findings:
            self._metrics.found(each.stage, each.guard, each.kind, each.action, each.count)
            if len(self._waiting) >= _MOST_WAITING:
                self._drop()
                continue
            self._waiting.append(
                {
                    "created_at": created_at,
                    "request_id": request_id,
                    "tenant_id": tenant_id,
                    "user_id": user_id,
                    "feature_slug": feature_slug,
                    "stage": each.stage,
                    "guard": each.guard,
                    "kind": each.kind,
                    "action": each.action,
                    "found": each.count,
                }
            )
        if self._waiting:
            self._has_some.set()

    async def keep_writing(self) -> None:
        """Write until cancelled; while the database cannot be written, what is found waits, within bounds."""
        while True:
            await self._has_some.wait()
            try:
                await self.flush()
            except TollhouseError as error:
                _LOG.warning("what guardrails found is written later", reason=error.message)
                await asyncio.sleep(_RETRY_EVERY_S)

    async def flush(self) -> None:
        """Write all that waits; raises TollhouseError where the database cannot be written."""
        while self._waiting:
            # Taken out first: a write that is cancelled goes on to its end, and is not to be done again.
            rows = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            try:
                await self._database.write(partial(store.append_all, rows=rows))
            except Exception:
                self._waiting.extendleft(reversed(rows))
                raise
        self._is_full = False
        self._has_some.clear()

    async def close(self) -> None:
        """Write what waits before the database is closed."""
        try:
            await self.flush()
        except TollhouseError as error:
            _LOG.error("what guardrails found is lost", findings=len(self._waiting), reason=error.message)

    def _drop(self) -> None:
        self._metrics.lost_findings += 1
        if not self._is_full:
            self._is_full = True
            _LOG.error("what guardrails find is only counted until the database can be written again")
