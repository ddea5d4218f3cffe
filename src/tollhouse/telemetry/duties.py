"""The metrics of what a process does all the time; see ``metrics`` for all others."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric


def duty_metrics(defects: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the metrics.

    Args:
        defects: those that each duty has ended on, and was begun again after.
    """
    counted = CounterMetricFamily("tollhouse_duty_defects", "Defects that ended a duty for a while", labels=["duty"])
    for duty, count in defects.items():
        counted.add_metric([duty], count)
    yield counted
