"""What the instance that runs on this machine says of itself: whether it serves, and which models it leaves alone."""

import http.client
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from tollhouse.apps.health import HealthReport, ProviderHealth
from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.config import Server
from tollhouse.resilience.breaker import BreakerSnapshot

_ANSWER_TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on


class Instance(msgspec.Struct, frozen=True):
    """How an instance is asked.

    Attributes:
        url: without a path.
        key: None where it asks for none.
        certificate: the file of the one that it has to show; None for plain HTTP.
    """

    url: str
    key: str | None = None
    certificate: str | None = None


def configured_instance(server: Server) -> Instance | None:
    """Return how an instance with this configuration is asked from this machine; None where that cannot be known.

    With port 0 each start takes another one, which nothing tells.
    """
    host, port, has_tls = server.host, server.port, server.tls_certificate is not None
    if server.admin_port is not None:
        host, port, has_tls = server.admin_host, server.admin_port, has_tls and server.admin_tls
    if not port or (has_tls and server.tls_client_ca is not None):
        # Commands have no certificate to show.
        return None
    host = _EVERY_ADDRESS.get(host, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if has_tls:
        return Instance(f"https://{address}", certificate=server.tls_certificate)
    return Instance(f"http://{address}")


def examine_instance(instance: Instance, *, has_to_run: bool) -> Iterator[Finding]:
    """Ask an instance for its health.

    Args:
        has_to_run: whether silence is a failure; else it only means that no instance runs here.
    """
    url = instance.url
    try:
        report = _health(instance)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        if has_to_run:
            yield failed("service", f"does not answer at {url}: {error}", "look at its log, and restart it")
        else:
            yield ok("service", f"none answers at {url}; each instance tells of itself at its /health")
        return
    if report.shedding:
        yield warning("service", f"turns calls away: {report.shedding}", "see docs/resilience.md")
    elif report.status == "unhealthy":
        yield failed("service", f"is unhealthy at {url}: the ledger cannot be written", "see `database` above")
    else:
        yield ok("service", f"is {report.status} at {url}")
    yield from _examine_breakers(report.providers)


def _health(instance: Instance) -> HealthReport:
    server = urlsplit(instance.url)
    host = str(server.hostname)
    if instance.certificate is None:
        connection = http.client.HTTPConnection(host, server.port, timeout=_ANSWER_TIMEOUT_S)
    else:
        context = _trusting_only(instance.certificate)
        connection = http.client.HTTPSConnection(host, server.port, timeout=_ANSWER_TIMEOUT_S, context=context)
    try:
        headers = {} if instance.key is None else {"Authorization": f"Bearer {instance.key}"}
        connection.request("GET", "/health", headers=headers)
        return msgspec.json.decode(connection.getresponse().read(), type=HealthReport)
    finally:
        connection.close()


def _trusting_only(certificate: str) -> ssl.SSLContext:
    """Return what accepts exactly the configured certificate, under whatever address and whoever vouches for it."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


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
