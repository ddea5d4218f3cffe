"""Counting what happened within the last seconds."""


class SlidingWindow:
    """Calls of the last ``window_s`` seconds, kept in slices: the oldest slice leaves as a whole.

    Attributes:
        calls: how many ended within the window,
        failures: of them, and
        slow: of them.
    """

    __slots__ = ("_counts", "_newest", "_slice_s", "calls", "failures", "slow")

    SLICES = 10

    def __init__(self, window_s: float) -> None:
        self._slice_s = window_s / self.SLICES
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.calls = self.failures = self.slow = 0
        self._newest = -1
        self._counts = [[0, 0, 0] for _ in range(self.SLICES)]

    def add(self, now_s: float, *, is_failure: bool, is_slow: bool) -> None:
        """Count a call that ended now, by a monotonic clock."""
        place = int(now_s / self._slice_s)
        if place != self._newest:
            self._advance(place)
        counts = self._counts[place % self.SLICES]
        counts[0] += 1
        self.calls += 1
        if is_failure:
            counts[1] += 1
            self.failures += 1
        if is_slow:
            counts[2] += 1
            self.slow += 1

    def age(self, now_s: float) -> None:
        """Let go of what is too old, for somebody who looks without adding."""
        place = int(now_s / self._slice_s)
        if place != self._newest:
            self._advance(place)

    def _advance(self, place: int) -> None:
        if place - self._newest >= self.SLICES:
            self.clear()
        else:
            for passed in range(self._newest + 1, place + 1):
                counts = self._counts[passed % self.SLICES]
                self.calls -= counts[0]
                self.failures -= counts[1]
                self.slow -= counts[2]
                counts[:] = (0, 0, 0)
        self._newest = place
