"""The metrics of events, those who follow them, and webhooks; see ``metrics`` for all others."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def event_metrics(followers: int, dropped: int, tries: Mapping[str, int], under_way: int) -> Iterator[Metric]:
    """Yield the metrics.

    Args:
        followers: clients that follow events now.
        dropped: those that were hung up on because they did not read.
        tries: of webhooks, by what came of them: ``delivered``, ``failed`` (tried again) or ``dead``.
        under_way: tries under way.
    """
    yield GaugeMetricFamily("tollhouse_event_followers", "Clients that follow events", value=followers)
    yield CounterMetricFamily("tollhouse_event_followers_dropped", "Clients that did not read", value=dropped)
    counted = CounterMetricFamily("tollhouse_webhook_tries", "Webhooks that were tried", labels=["outcome"])
    for outcome, count in tries.items():
        counted.add_metric([outcome], count)
    yield counted
    yield GaugeMetricFamily("tollhouse_webhooks_under_way", "Webhooks that are being tried", value=under_way)
