"""The metrics of what stands before each provider, by name; see ``metrics`` for all others."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_STATES = {"closed": 0, "half_open": 1, "open": 2}
_PROVIDER = ["gen_ai_provider_name"]


class GuardSample(msgspec.Struct, frozen=True):
    """What is counted for one provider.

    Attributes:
        states: of its models' circuit breakers.
        keys: of each of its keys: whether it is in use rather than resting, and how often it was turned away.
        under_way: calls that have a place at it, and
        waiting: that wait for one; None where their number is not bounded.
    """

    provider: str
    reachable: bool | None
    states: Mapping[str, str]
    keys: Mapping[str, tuple[bool, int]]
    under_way: int | None
    waiting: int | None


def guard_metrics(samples: Iterable[GuardSample]) -> Iterator[Metric]:
    """Yield the metrics of all providers."""
    reachable = GaugeMetricFamily("tollhouse_provider_reachable", "A connection could be made", labels=_PROVIDER)
    states = GaugeMetricFamily(
        "tollhouse_breaker_state",
        "Circuit breakers: 0 closed, 1 half-open, 2 open",
        labels=[*_PROVIDER, "gen_ai_request_model"],
    )
    in_use = GaugeMetricFamily("tollhouse_provider_key_in_use", "1, or 0 while it rests", labels=[*_PROVIDER, "key"])
    turned_away = CounterMetricFamily(
        "tollhouse_provider_key_turned_away", "Calls refused because of their key", labels=[*_PROVIDER, "key"]
    )
    under_way = GaugeMetricFamily("tollhouse_bulkhead_calls", "Calls that have a place", labels=_PROVIDER)
    waiting = GaugeMetricFamily("tollhouse_bulkhead_waiting", "Calls that wait for a place", labels=_PROVIDER)
    for sample in samples:
        of = [sample.provider]
        if sample.reachable is not None:
            reachable.add_metric(of, sample.reachable)
        for model, state in sample.states.items():
            states.add_metric([*of, model], _STATES[state])
        for key, (is_in_use, times) in sample.keys.items():
            in_use.add_metric([*of, key], is_in_use)
            turned_away.add_metric([*of, key], times)
        if sample.under_way is not None and sample.waiting is not None:
            under_way.add_metric(of, sample.under_way)
            waiting.add_metric(of, sample.waiting)
    yield from (reachable, states, in_use, turned_away, under_way, waiting)


def shedding_metrics(shed: Mapping[str, int], lag_s: float) -> Iterator[Metric]:
    """Yield the metrics of load shedding; ``shed`` are the calls turned away, by the reason."""
    calls = CounterMetricFamily("tollhouse_calls_shed", "Calls turned away for the sake of others", labels=["reason"])
    for reason, count in shed.items():
        calls.add_metric([reason], count)
    yield calls
    yield GaugeMetricFamily("tollhouse_event_loop_lag_seconds", "How late the event loop was", value=lag_s)
