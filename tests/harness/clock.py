"""A clock that stands still until a test moves it."""

from datetime import datetime

from tollhouse.kit.clock import epoch_ms


class FakeClock:
    """Starts at an instant, in the middle of a day and a month unless told otherwise."""

    def __init__(self, now: str = "2026-04-10T12:00:00Z") -> None:
        self._monotonic_s = 1000.0
        self.set(now)

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def set(self, now: str) -> None:
        """Set the wall clock alone, as an administrator of the machine would."""
        self._now_ms = epoch_ms(datetime.fromisoformat(now))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += round(seconds * 1000)
        self._monotonic_s += seconds
