"""How the service is, found without cost: no provider is sent a request, and no probe can load the disk."""

import asyncio
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
import structlog

from tollhouse import __version__
from tollhouse.apps.duties import Duties
from tollhouse.errors import TollhouseError
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.service import Ledger
from tollhouse.resilience.api_keys import KeySnapshot
from tollhouse.resilience.breaker import BreakerSnapshot, State
from tollhouse.resilience.guards import Guards
from tollhouse.resilience.reachability import Reach, Reachability
from tollhouse.resilience.shedding import LoadShedder
from tollhouse.storage.database import Database
from tollhouse.storage.probe import touch
from tollhouse.telemetry.metrics import Metrics

T = TypeVar("T")

_WRITE_FRESH_S = 1.0
_WRITE_TIMEOUT_S = 2.0
_LAG_SAMPLE_S = 0.01
_STATM = Path("/proc/self/statm")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT_BYTES = 1 << 60
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
    """Whether a connection to a provider could be opened, and if not, why; and whether calls go to it.

    Attributes:
        breaker: the state of its models' circuit breaker that is worst off; left out where breakers are switched off.
        breakers: each of them.
        keys: of a provider with several, each by its name.
    """

    reachable: bool
    checked_at: str
    error: str | None = None
    breaker: State | None = None
    breakers: dict[str, BreakerSnapshot] = {}
    keys: dict[str, KeySnapshot] = {}


class HealthReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the service.

    ``unhealthy``: the ledger cannot be written, so no call can be served. ``degraded``: calls are served, but a
    provider cannot be reached or is left alone by its breaker, or ended calls wait to be entered; that is no reason to
    take this instance out, since any other would fare the same. Neither is ``shedding``, why calls are turned away
    just now: it passes, and the others would get them; nor are ``unsound_duties``, which a defect has ended of late:
    they are begun again, and any other instance has the same defect.
    """

    status: Literal["ok", "degraded", "unhealthy"]
    version: str
    uptime_s: float
    calls_in_flight: int
    event_loop_lag_ms: float
    database: DatabaseHealth
    memory: MemoryHealth
    providers: dict[str, ProviderHealth]
    shedding: str | None = None
    unsound_duties: list[str] = []


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
        reachability: Reachability,
        guards: Guards | None = None,
        shedder: LoadShedder | None = None,
        is_in_touch: Callable[[], bool] = lambda: True,
        duties: Duties | None = None,
    ) -> None:
        """Ask these parts.

        Args:
            guards: what stands before the providers; None for a command, which calls none, and so is
            shedder: what turns calls away.
            is_in_touch: whether calls could be admitted now, as far as this process knows without asking.
            duties: what the process does all the time.
        """
        self._is_in_touch = is_in_touch
        self._database = database
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._reachability = reachability
        self._guards = guards
        self._shedder = shedder
        self._duties = duties
        self._started_s = clock.monotonic_s()
        self._writing: asyncio.Task[bool] | None = None
        self._writable = _Measured(self._try_to_write, clock, _WRITE_FRESH_S)

    async def is_ready(self) -> bool:
        """Whether the ledger can be written: a row was committed within the last second, or is now."""
        return self._is_in_touch() and await self._writable.get()

    async def report(self) -> HealthReport:
        """Return the whole state."""
        writable, reached, lag_ms = await asyncio.gather(
            self.is_ready(), self._reachability.latest(), _event_loop_lag_ms()
        )
        unwritten = self._ledger.unwritten
        providers = {name: self._provider(name, reach) for name, reach in reached.items()}
        impaired = unwritten > 0 or not all(each.reachable and each.breaker != "open" for each in providers.values())
        shedding = None if self._shedder is None else self._shedder.reason
        unsound = [] if self._duties is None else self._duties.unsound
        return HealthReport(
            status="unhealthy" if not writable else "degraded" if impaired or shedding or unsound else "ok",
            version=__version__,
            uptime_s=round(self._clock.monotonic_s() - self._started_s, 3),
            calls_in_flight=self._metrics.calls_in_flight,
            event_loop_lag_ms=lag_ms,
            database=DatabaseHealth(writable, unwritten, self._database.waiting),
            memory=MemoryHealth(resident_bytes()),
            providers=providers,
            shedding=shedding,
            unsound_duties=unsound,
        )

    def _provider(self, name: str, reach: Reach) -> ProviderHealth:
        guards = self._guards
        if guards is None or name not in guards.providers:
            return ProviderHealth(reach.is_reachable, reach.checked_at, reach.error)
        return ProviderHealth(
            reachable=reach.is_reachable,
            checked_at=reach.checked_at,
            error=reach.error,
            breaker=guards.providers[name].worst_state(),
            breakers=guards.breakers(name),
            keys=guards.keys(name),
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


def memory_limit_bytes() -> int | None:
    """Return how much memory the control group allows this process; None where nothing bounds it."""
    for file in _MEMORY_LIMITS:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        # The first version of control groups says "no limit" as a number near 2⁶³.
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT_BYTES else None
    return None
