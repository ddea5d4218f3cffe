"""How long calls take, as far as it is needed to tell one that takes unusually long."""

import math

_SHORTEST_S = 0.001
_FACTOR = 1.1
# Up to about ten minutes.
_BUCKETS = 140
_PER_BUCKET = 1 / math.log(_FACTOR)
_LEAST_CALLS = 50
_MOST_CALLS = 2000
_LOOK_AGAIN_AFTER = 32


class LatencyQuantile:
    """A quantile of the last thousand durations or so, to within a tenth.

    Durations are counted in buckets, each a tenth wider than the one before. Once there are many, all counts are
    halved, so that what was long ago means little.
    """

    __slots__ = ("_calls", "_counts", "_quantile", "_stale_in", "_value_s")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._counts = [0] * _BUCKETS
        self._calls = 0
        self._stale_in = 0
        self._value_s: float | None = None

    def add(self, duration_s: float) -> None:
        """Count a call that was answered after so long."""
        place = int(math.log(max(duration_s, _SHORTEST_S) / _SHORTEST_S) * _PER_BUCKET)
        self._counts[min(place, _BUCKETS - 1)] += 1
        self._calls += 1
        self._stale_in -= 1
        if self._calls >= _MOST_CALLS:
            self._counts = [count // 2 for count in self._counts]
            self._calls = sum(self._counts)

    def value_s(self) -> float | None:
        """Return the upper bound of the bucket that the quantile falls into; None while there were too few calls."""
        if self._calls < _LEAST_CALLS:
            return None
        if self._stale_in <= 0:
            self._stale_in = _LOOK_AGAIN_AFTER
            self._value_s = self._find()
        return self._value_s

    def _find(self) -> float:
        wanted = self._quantile * self._calls
        seen = 0
        place = 0
        for place, count in enumerate(self._counts):  # noqa: B007 - used after the loop
            seen += count
            if seen >= wanted:
                break
        return _SHORTEST_S * _FACTOR ** (place + 1)
