"""The metrics of jobs; see ``metrics`` for all others."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def job_metrics(
    depths: Mapping[tuple[str, str], int],
    overdue_s: Mapping[str, float],
    workers: int,
    totals: Mapping[tuple[str, str], int],
) -> Iterator[Metric]:
    """Yield the metrics: of all processes, since each reads them from the database.

    Args:
        depths: jobs by queue and state.
        overdue_s: for how long the job that is due for longest has been so, by queue.
        workers: those that are alive.
        totals: ended runs of jobs, by queue and outcome.
    """
    jobs = GaugeMetricFamily("tollhouse_jobs", "Jobs and parts of jobs, up to 10,000", labels=["queue", "state"])
    for of, count in depths.items():
        jobs.add_metric(of, count)
    oldest = GaugeMetricFamily("tollhouse_job_overdue_seconds", "How long the oldest due job waits", labels=["queue"])
    for queue, seconds in overdue_s.items():
        oldest.add_metric([queue], seconds)
    runs = CounterMetricFamily("tollhouse_job_runs", "Runs of jobs, by what ended them", labels=["queue", "outcome"])
    for of, count in totals.items():
        runs.add_metric(of, count)
    yield from (jobs, oldest, runs, GaugeMetricFamily("tollhouse_job_workers", "Live workers", value=workers))
