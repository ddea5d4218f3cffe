"""Every metric, by name. Names follow OpenTelemetry's conventions for generative AI where those have one.

The hot path adds to plain numbers; they become Prometheus samples when somebody looks.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from operator import add

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_LABELS = ["gen_ai_provider_name", "gen_ai_request_model"]
_DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_TYPES = (
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
    "audio_input",
    "image_input",
    "audio_output",
    "image_output",
)
"""The classes of tokens that are counted, in the order in which they are given; each token is in one of them."""


class _Durations:
    """A histogram of seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_DURATION_BUCKETS_S) + 1)
        self.total_s = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*(str(bound) for bound in _DURATION_BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class _Attempts:
    """What is counted for one provider and model."""

    __slots__ = ("cost_nano_usd", "durations", "outcomes", "overruns", "searches", "tokens")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = defaultdict(int)
        self.tokens = (0,) * len(TOKEN_TYPES)
        self.searches = 0
        self.cost_nano_usd = 0
        self.overruns = 0
        self.durations = _Durations()


class Metrics(Collector):
    """The service's counters. One event loop adds to them, so they need no lock."""

    def __init__(self) -> None:
        self._answers: dict[tuple[int, str], int] = defaultdict(int)
        self._attempts: dict[tuple[str, str], _Attempts] = defaultdict(_Attempts)
        self._passed_over: dict[tuple[str, str, str], int] = defaultdict(int)
        self._switches: dict[tuple[str, str, str], int] = defaultdict(int)
        self._hedges: dict[tuple[str, str], int] = defaultdict(int)
        self._transitions: dict[tuple[str, str, str], int] = defaultdict(int)
        self._further: list[Callable[[], Iterable[Metric]]] = []
        self._findings: dict[tuple[str, str, str, str], int] = defaultdict(int)
        self.lost_findings = 0
        self.calls_in_flight = 0
        self.unwritten_endings = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self, status: int, code: str) -> None:
        """Count an answer to a caller: its HTTP status and error code ("" when it was served)."""
        self._answers[status, code] += 1

    def attempted(self, provider: str, model: str, outcome: str, duration_s: float) -> None:
        """Count an attempt at a provider: ``settled``, ``not_sent``, ``refused`` or ``unknown``."""
        attempts = self._attempts[provider, model]
        attempts.outcomes[outcome] += 1
        attempts.durations.counts[bisect_left(_DURATION_BUCKETS_S, duration_s)] += 1
        attempts.durations.total_s += duration_s

    def spent(self, provider: str, model: str, tokens: tuple[int, ...], cost_nano_usd: int, searches: int = 0) -> None:
        """Add what a settled attempt used: tokens in the order of ``TOKEN_TYPES``, and web searches."""
        attempts = self._attempts[provider, model]
        attempts.tokens = tuple(map(add, attempts.tokens, tokens))
        attempts.searches += searches
        attempts.cost_nano_usd += cost_nano_usd

    def overran(self, provider: str, model: str) -> None:
        """Count an attempt that cost more than its ceiling, since the provider broke a limit it was given."""
        self._attempts[provider, model].overruns += 1

    def passed_over(self, provider: str, model: str, reason: str) -> None:
        """Count a call that a candidate was not given: ``breaker_open``, ``slow_start`` or ``bulkhead_full``."""
        self._passed_over[provider, model, reason] += 1

    def switched(self, model: str, fallback: str, reason: str) -> None:
        """Count an admitted attempt of a fallback in a model's place."""
        self._switches[model, fallback, reason] += 1

    def hedged(self, provider: str, model: str) -> None:
        """Count a second attempt that was begun beside a first."""
        self._hedges[provider, model] += 1

    def transitioned(self, provider: str, model: str, state: str) -> None:
        """Count a circuit breaker's change to a state."""
        self._transitions[provider, model, state] += 1

    def add(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Show what another part of the service counts, too."""
        self._further.append(collect)

    def found(self, stage: str, guard: str, kind: str, action: str, count: int) -> None:
        """Count what a guardrail found; kinds are few, and those of the configuration."""
        self._findings[stage, guard, kind, action] += count

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called by prometheus_client."""
        answers = CounterMetricFamily(
            "tollhouse_http_answers", "Answers to completion calls", labels=["http_response_status_code", "error_type"]
        )
        for (status, code), count in self._answers.items():
            answers.add_metric([str(status), code], count)
        yield answers
        yield GaugeMetricFamily("tollhouse_calls_in_flight", "Calls being served now", value=self.calls_in_flight)
        yield GaugeMetricFamily(
            "tollhouse_unwritten_endings", "Ended attempts that wait for the database", value=self.unwritten_endings
        )
        yield from self._collect_findings()
        yield from self._collect_attempts()
        yield from self._collect_failovers()
        for collect in self._further:
            yield from collect()

    def _collect_failovers(self) -> Iterator[Metric]:
        passed = CounterMetricFamily(
            "tollhouse_candidates_passed_over", "Calls that a candidate was not given", labels=[*_LABELS, "reason"]
        )
        for labels, count in self._passed_over.items():
            passed.add_metric(labels, count)
        changes = CounterMetricFamily(
            "tollhouse_breaker_transitions", "Changes of circuit breakers, by the new state", labels=[*_LABELS, "state"]
        )
        for labels, count in self._transitions.items():
            changes.add_metric(labels, count)
        switches = CounterMetricFamily(
            "tollhouse_provider_switches",
            "Attempts of a fallback in a model's place",
            labels=["gen_ai_request_model", "fallback_model", "reason"],
        )
        for labels, count in self._switches.items():
            switches.add_metric(labels, count)
        hedges = CounterMetricFamily("tollhouse_hedges", "Second attempts begun beside a first", labels=_LABELS)
        for of, count in self._hedges.items():
            hedges.add_metric(of, count)
        yield from (passed, changes, switches, hedges)

    def _collect_findings(self) -> Iterator[Metric]:
        labels = ["stage", "guard", "kind", "action"]
        findings = CounterMetricFamily("tollhouse_guardrail_findings", "What guardrails found", labels=labels)
        for key, count in self._findings.items():
            findings.add_metric(list(key), count)
        yield findings
        yield CounterMetricFamily(
            "tollhouse_guardrail_findings_lost",
            "Findings that were counted and never written",
            value=self.lost_findings,
        )

    def _collect_attempts(self) -> Iterator[Metric]:
        labels = _LABELS
        outcomes = CounterMetricFamily("tollhouse_attempts", "Tries at a provider", labels=[*labels, "outcome"])
        tokens = CounterMetricFamily("gen_ai_client_token_usage", "Tokens used", labels=[*labels, "gen_ai_token_type"])
        searches = CounterMetricFamily("tollhouse_web_searches", "Providers' web searches", labels=labels)
        cost = CounterMetricFamily("tollhouse_cost_nano_usd", "Cost posted, in nano-USD", labels=labels)
        overruns = CounterMetricFamily(
            "tollhouse_ceiling_overruns", "Attempts costlier than their ceiling", labels=labels
        )
        durations = HistogramMetricFamily(
            "gen_ai_client_operation_duration_seconds", "How long attempts took", labels=labels
        )
        for (provider, model), attempts in self._attempts.items():
            of = [provider, model]
            for outcome, count in attempts.outcomes.items():
                outcomes.add_metric([*of, outcome], count)
            for token_type, count in zip(TOKEN_TYPES, attempts.tokens, strict=True):
                tokens.add_metric([*of, token_type], count)
            searches.add_metric(of, attempts.searches)
            cost.add_metric(of, attempts.cost_nano_usd)
            overruns.add_metric(of, attempts.overruns)
            durations.add_metric(of, attempts.durations.cumulative(), attempts.durations.total_s)
        yield from (outcomes, tokens, searches, cost, overruns, durations)
