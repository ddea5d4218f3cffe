"""The sums behind the figures. Everything here is plain numbers in and out."""

from collections.abc import Sequence
from statistics import median


def per_call_us(cpu_s: float, calls: int) -> float:
    """Return CPU seconds as microseconds per call; raises ValueError when there were no calls to divide by."""
    if calls <= 0:
        raise ValueError("no call was answered, so there is nothing to divide by")
    return cpu_s / calls * 1e6


def median_ratio(measured: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median over the rounds of measured over baseline.

    Each round's ratio is taken by itself, since what else the machine does in a round slows both of its parts.

    Raises:
        ValueError: the rounds do not pair up, or there are none.
    """
    if not measured:
        raise ValueError("a ratio needs at least one round")
    return median(each / base for each, base in zip(measured, baseline, strict=True))


def growth_percent(ratio: float) -> float:
    """Return by how much a ratio is above 1, in percent; negative when it is below.

    >>> growth_percent(1.25)
    25.0
    """
    return (ratio - 1) * 100


def spread_percent(values: Sequence[float]) -> float:
    """Return the width of the values around their median in percent: how far to trust it."""
    return (max(values) - min(values)) / median(values) * 100


def significant(value: float) -> str:
    """Return a figure with three significant digits, and no more than the integer part where that is longer.

    >>> [significant(value) for value in (0.04567, 1.2345, 45.67, 151.3, 98765.4)]
    ['0.0457', '1.23', '45.7', '151', '98765']
    """
    if abs(value) >= 100:
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}" if abs(value) >= 1 else f"{value:.3g}"
