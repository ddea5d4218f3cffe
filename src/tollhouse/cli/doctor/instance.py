"""What the instance that runs on this machine says of itself: whether it serves, and which models it leaves alone."""

import http.client
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from tollhouse.apps.health import HealthReport, ProviderHealth
from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.config import Server
from tollhouse.resilience.breaker import BreakerSnapshot

_ANSWER_TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on


def configured_url(server: Server) -> str:
    """Return where an instance with this configuration is reached from this machine."""
    host = _EVERY_ADDRESS.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def examine_instance(url: str, *, has_to_run: bool) -> Iterator[Finding]:
    """Ask an instance for its health.

    Args:
        url: without a path.
        has_to_run: whether silence is a failure; else it only means that no instance runs here.
    """
    try:
        report = _health(url)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        if has_to_run:
            yield failed("service", f"does not answer at {url}: {error}", "look at its log, and restart it")
        else:
            yield ok("service", f"none answers at {url}; each instance tells of itself at its /health")
        return
    if report.shedding:
        yield warning("service", f"turns calls away: {report.shedding}", "see docs/reliability.md")
    elif report.status == "unhealthy":
        yield failed("service", f"is unhealthy at {url}: the ledger cannot be written", "see `database` above")
    else:
        yield ok("service", f"is {report.status} at {url}")
    yield from _examine_breakers(report.providers)


def _health(url: str) -> HealthReport:
    server = urlsplit(url)
    connection = http.client.HTTPConnection(str(server.hostname), server.port, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return msgspec.json.decode(connection.getresponse().read(), type=HealthReport)
    finally:
        connection.close()


def _examine_breakers(providers: Mapping[str, ProviderHealth]) -> Iterator[Finding]:
    for provider, health in providers.items():
        for model, breaker in health.breakers.items():
            if breaker.state != "closed":
                yield _left_alone(provider, model, breaker)


def _left_alone(provider: str, model: str, breaker: BreakerSnapshot) -> Finding:
    found = f"is {breaker.state.replace('_', '-')}: {breaker.failure_rate:.0%} of {breaker.calls} calls failed"
    if breaker.slow_call_rate:
        found += f", {breaker.slow_call_rate:.0%} were slow"
    if breaker.probe_in_s is not None:
        found += f"; the next probe may go in {breaker.probe_in_s:.0f} s"
    advice = "its calls go to fallbacks, or get a 503, until a probe succeeds; see the provider's status page"
    return warning(f"breaker {provider}/{model}", found, advice)
