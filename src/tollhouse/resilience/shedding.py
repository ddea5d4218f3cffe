"""Load shedding: calls are turned away at once while this process is short of memory or of time."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

_SAMPLE_EVERY_S = 0.1
# One long turn of the loop, as when a thousand calls come in the same moment, is no overload: it has to go on.
_SAMPLES_IN_A_ROW = 3
# What sheds at a bound takes calls again somewhat below it, or it would flutter.
_RECOVERED = 0.9
_LOG = structlog.get_logger("tollhouse.overload")


class SheddingLimits(msgspec.Struct, frozen=True):
    """What a process may be at before it turns calls away; None sets no limit.

    Attributes:
        max_lag_s: by how much the event loop may be late.
        max_memory_bytes: the memory that the process may hold.
        max_calls: the calls that may be under way.
    """

    max_lag_s: float | None = None
    max_memory_bytes: int | None = None
    max_calls: int | None = None


class LoadShedder:
    """Looks at this process ten times a second, and says whether it can take another call.

    Attributes:
        reason: why calls are turned away now; None while they are taken.
        lag_s: by how much the event loop was late at the last look.
    """

    def __init__(self, limits: SheddingLimits, resident_bytes: Callable[[], int]) -> None:
        self.reason: str | None = None
        self.lag_s = 0.0
        self.shed: dict[str, int] = {}
        self._limits = limits
        self._resident_bytes = resident_bytes
        self._late_in_a_row = 0
        self._lag_reason: str | None = None
        self._memory_reason: str | None = None

    def turn_away(self, calls_in_flight: int) -> str | None:
        """Return why a call that has just come is turned away; None takes it."""
        max_calls = self._limits.max_calls
        reason = self.reason
        if reason is None:
            if max_calls is None or calls_in_flight < max_calls:
                return None
            reason = "too many calls are under way here"
        self.shed[reason] = self.shed.get(reason, 0) + 1
        return reason

    async def watch(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _SAMPLE_EVERY_S
            await asyncio.sleep(_SAMPLE_EVERY_S)
            self.look(loop.time() - due_s)

    def look(self, lag_s: float) -> None:
        """Take in by how much the loop was late, and how much memory is held."""
        limits = self._limits
        self.lag_s = max(lag_s, 0.0)
        if limits.max_lag_s is not None:
            is_shedding = self._lag_reason is not None
            bound_s = limits.max_lag_s * (_RECOVERED if is_shedding else 1.0)
            self._late_in_a_row = self._late_in_a_row + 1 if self.lag_s > bound_s else 0
            is_late = self._late_in_a_row >= (1 if is_shedding else _SAMPLES_IN_A_ROW)
            self._lag_reason = "this instance is too busy" if is_late else None
        if limits.max_memory_bytes is not None:
            bound = limits.max_memory_bytes * (_RECOVERED if self._memory_reason is not None else 1.0)
            is_full = self._resident_bytes() > bound
            self._memory_reason = "this instance is short of memory" if is_full else None
        reason = self._lag_reason or self._memory_reason
        if reason != self.reason:
            if reason is None:
                _LOG.info("calls are taken again")
            else:
                _LOG.warning("calls are turned away", reason=reason, lag_s=round(self.lag_s, 3))
        self.reason = reason
