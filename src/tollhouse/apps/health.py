"""How the service is, found without cost: no provider is sent a request, and no probe can load the disk."""

import asyncio
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
import structlog

from tollhouse import __version__
from tollhouse.errors import TollhouseError
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.service import Ledger
from tollhouse.providers.base import ProviderError
from tollhouse.storage.database import Database
from tollhouse.storage.probe import touch
from tollhouse.telemetry.metrics import Metrics

T = TypeVar("T")

Probe = Callable[[float], Awaitable[None]]
"""Reaches a provider within so many seconds, or raises ProviderError."""

_WRITE_FRESH_S = 1.0
_WRITE_TIMEOUT_S = 2.0
_PROBES_FRESH_S = 10.0
_PROBE_TIMEOUT_S = 2.0
_LAG_SAMPLE_S = 0.01
_STATM = Path("/proc/self/statm")
_LOG = structlog.get_logger("tollhouse.health")


class DatabaseHealth(msgspec.Struct, frozen=True):
    """Whether the ledger can be written, and what waits for it.

    Attributes:
        unwritten_endings: ended calls whose rows wait because the database refused them; their money stays reserved.
        waiting: operations that wait for the next transaction.
    """

    writable: bool
    unwritten_endings: int
    waiting: int


class MemoryHealth(msgspec.Struct, frozen=True):
    """Memory that the process holds."""

    rss_bytes: int


class ProviderHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a connection to a provider could be opened, and if not, why."""

    reachable: bool
    checked_at: str
    error: str | None = None


class HealthReport(msgspec.Struct, frozen=True):
    """The state of the service.

    ``unhealthy``: the ledger cannot be written, so no call can be served. ``degraded``: calls are served, but a
    provider cannot be reached or ended calls wait to be entered; that is no reason to take this instance out, since
    any other would fare the same.
    """

    status: Literal["ok", "degraded", "unhealthy"]
    version: str
    uptime_s: float
    calls_in_flight: int
    event_loop_lag_ms: float
    database: DatabaseHealth
    memory: MemoryHealth
    providers: dict[str, ProviderHealth]


class _Measured(Generic[T]):
    """A measurement that many may ask for at once: made once, and good for a while."""

    def __init__(self, measure: Callable[[], Awaitable[T]], clock: Clock, fresh_s: float) -> None:
        self._measure = measure
        self._clock = clock
        self._fresh_s = fresh_s
        self._stale_at_s = 0.0
        self._running: asyncio.Task[T] | None = None

    async def get(self) -> T:
        if self._running is None or (self._running.done() and self._clock.monotonic_s() >= self._stale_at_s):
            self._running = asyncio.create_task(self._run())
        # Others may wait for it too: one that leaves must not end it.
        return await asyncio.shield(self._running)

    async def _run(self) -> T:
        result = await self._measure()
        self._stale_at_s = self._clock.monotonic_s() + self._fresh_s
        return result


class Health:
    """Answers the operator's questions about a running service."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        metrics: Metrics,
        clock: Clock,
        probes: Mapping[str, Probe],
        is_in_touch: Callable[[], bool] = lambda: True,
    ) -> None:
        """Ask these parts.

        Args:
            probes: reach each provider by its configured name.
            is_in_touch: whether calls could be admitted now, as far as this process knows without asking.
        """
        self._is_in_touch = is_in_touch
        self._database = database
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._probes = probes
        self._started_s = clock.monotonic_s()
        self._writing: asyncio.Task[bool] | None = None
        self._writable = _Measured(self._try_to_write, clock, _WRITE_FRESH_S)
        self._reachable = _Measured(self._probe_all, clock, _PROBES_FRESH_S)

    async def is_ready(self) -> bool:
        """Whether the ledger can be written: a row was committed within the last second, or is now."""
        return self._is_in_touch() and await self._writable.get()

    async def report(self) -> HealthReport:
        """Return the whole state."""
        writable, providers, lag_ms = await asyncio.gather(self.is_ready(), self._reachable.get(), _event_loop_lag_ms())
        unwritten = self._ledger.unwritten
        impaired = unwritten > 0 or not all(provider.reachable for provider in providers.values())
        return HealthReport(
            status="unhealthy" if not writable else "degraded" if impaired else "ok",
            version=__version__,
            uptime_s=round(self._clock.monotonic_s() - self._started_s, 3),
            calls_in_flight=self._metrics.calls_in_flight,
            event_loop_lag_ms=lag_ms,
            database=DatabaseHealth(writable, unwritten, self._database.waiting),
            memory=MemoryHealth(resident_bytes()),
            providers=providers,
        )

    @property
    def unwritten_endings(self) -> int:
        """How many ended calls wait to be entered."""
        return self._ledger.unwritten

    async def _try_to_write(self) -> bool:
        """Commit a row. A write that hangs is waited for again, not joined by another."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        done, _ = await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT_S)
        return bool(done) and self._writing.result()

    async def _write(self) -> bool:
        now = utc_text(self._clock.now_ms())
        try:
            await self._database.write(lambda connection: touch(connection, now))
        except TollhouseError:
            return False
        except Exception:  # noqa: BLE001 - whatever keeps it from writing, it cannot
            _LOG.exception("the database refuses a write")
            return False
        return True

    async def _probe_all(self) -> dict[str, ProviderHealth]:
        found = await asyncio.gather(*(self._probe(probe) for probe in self._probes.values()))
        return dict(zip(self._probes, found, strict=True))

    async def _probe(self, probe: Probe) -> ProviderHealth:
        problem = None
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await probe(_PROBE_TIMEOUT_S)
        except ProviderError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"no connection within {_PROBE_TIMEOUT_S:g} seconds"
        return ProviderHealth(problem is None, utc_text(self._clock.now_ms()), problem)


async def _event_loop_lag_ms() -> float:
    """Return by how much the event loop is late with a timer now, in milliseconds."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await asyncio.sleep(_LAG_SAMPLE_S)
    return round(max(loop.time() - started_s - _LAG_SAMPLE_S, 0.0) * 1000, 3)


def resident_bytes() -> int:
    """Return the memory this process holds now; where the system does not tell, the most it ever held."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The BSDs count kilobytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
