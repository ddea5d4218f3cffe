"""Time, injected: nothing else in Tollhouse asks the operating system what time it is."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Where the service gets its time from."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""

    def monotonic_s(self) -> float:
        """Seconds that never run backwards, for leases and durations."""


# Goes on while the machine is suspended, where the system has such a clock: what was held then may be another's now.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.clock_gettime(_MONOTONIC)


@lru_cache(maxsize=64)
def _second_text(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=64)
def utc_text(epoch_ms: int) -> str:
    """Return an instant as ISO 8601 in UTC with milliseconds: text that sorts by time.

    >>> utc_text(1_775_000_000_123)
    '2026-03-31T23:33:20.123Z'
    """
    second, millisecond = divmod(epoch_ms, 1000)
    return f"{_second_text(second)}.{millisecond:03d}Z"


def epoch_ms(moment: datetime) -> int:
    """Return a timezone-aware moment as milliseconds since the Unix epoch.

    Raises:
        ValueError: the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs its time zone, e.g. 2026-12-31T23:59:59Z")
    return round(moment.timestamp() * 1000)


def billing_period(epoch_ms: int) -> str:
    """Return the calendar month (UTC) an instant belongs to, as ``YYYY-MM``.

    >>> billing_period(1_775_000_000_123)
    '2026-03'
    """
    return _second_text(epoch_ms // 1000)[:7]
