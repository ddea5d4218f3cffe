"""What an edge's configuration is written from: ``[edge]``, and what the service's own sections say of it."""

import math
from urllib.parse import quote

import msgspec

from tollhouse.config import Config
from tollhouse.config.rules import is_host_port
from tollhouse.errors import StartError

MAIN = "tollhouse"
"""The name of the group of instances that take what no feature's group takes."""


class Group(msgspec.Struct, frozen=True):
    """Instances that share requests.

    Attributes:
        name: in the edge's configuration.
        feature: the feature whose requests they take, as ``/edge/authorize`` tells it; None for all that is left.
        upstreams: ``host:port`` of each.
        tells_events: whether they take those who follow events, and nobody else.
    """

    name: str
    feature: str | None
    upstreams: tuple[str, ...]
    tells_events: bool = False


class Tls(msgspec.Struct, frozen=True):
    """Paths of PEM files."""

    certificate: str
    key: str


class UpstreamTls(msgspec.Struct, frozen=True):
    """How instances are reached by TLS.

    Attributes:
        ca: the path of the certificates that vouch for theirs.
        server_name: the name in the certificates of all.
        client: what is shown to instances that ask for a certificate.
    """

    ca: str
    server_name: str
    client: Tls | None


class Settings(msgspec.Struct, frozen=True):
    """Everything that stands in an edge's configuration; what came from outside has been checked by character.

    Attributes:
        groups: the main one first, and the one that tells events, if there is one, last.
        tls: None serves plain HTTP on ``http_port``.
        upstream_tls: None speaks plain HTTP to instances.
        http_port: 0 for none.
        requests_per_minute: of one tenant, whatever its tier; 0 for no limit.
        max_connections: to one instance.
    """

    groups: tuple[Group, ...]
    server_names: tuple[str, ...]
    address: str
    https_port: int
    http_port: int
    tls: Tls | None
    upstream_tls: UpstreamTls | None
    trusted_proxies: tuple[str, ...]
    requests_per_minute: int
    burst: int
    max_body_bytes: int
    max_header_bytes: int
    max_connections: int
    read_timeout_s: int
    max_fails: int
    fail_timeout_s: int

    @property
    def retry_limited_s(self) -> int:
        """When a tenant that was refused may come again: when its bucket has got one request more."""
        return math.ceil(60 / self.requests_per_minute) if self.requests_per_minute else 1


def settings_of(config: Config) -> Settings:
    """Return the settings of a configuration; raises StartError where something is missing or contradicts itself."""
    edge, server = config.edge, config.server
    tls = None
    if not edge.plain_http:
        if edge.certificate is None or edge.certificate_key is None:
            raise StartError(
                "[edge] certificate, certificate_key: are missing: expected the paths of a certificate and its key "
                "(--certificate, --certificate-key), or plain_http (--plain-http) where something else ends TLS"
            )
        tls = Tls(edge.certificate, edge.certificate_key)
        if edge.http_port == edge.https_port:
            raise StartError(f"[edge] http_port = {edge.http_port}: expected another port than https_port, or 0")
    elif not edge.http_port:
        raise StartError("[edge] http_port = 0: expected a port, as plain_http serves there")
    requests_per_minute, burst = _largest_limit(config)
    return Settings(
        groups=_groups(config),
        server_names=edge.server_names,
        address=edge.address,
        https_port=edge.https_port,
        http_port=edge.http_port,
        tls=tls,
        upstream_tls=_upstream_tls(config),
        trusted_proxies=edge.trusted_proxies,
        requests_per_minute=requests_per_minute,
        burst=burst,
        max_body_bytes=server.max_body_bytes,
        max_header_bytes=server.max_header_bytes,
        max_connections=server.max_connections,
        read_timeout_s=edge.read_timeout_s,
        max_fails=edge.max_fails,
        fail_timeout_s=edge.fail_timeout_s,
    )


def _largest_limit(config: Config) -> tuple[int, int]:
    """Return calls a minute and burst of the tenants who have most of each: an edge does not know a tenant's tier."""
    limits = config.limits
    rates, bursts = [limits.requests_per_minute], [limits.burst]
    for tier in config.tiers.values():
        own = tier.limits
        rates.append(limits.requests_per_minute if own.requests_per_minute is None else own.requests_per_minute)
        bursts.append(limits.burst if own.burst is None else own.burst)
    return 0 if 0 in rates else max(rates), max(bursts)


def _groups(config: Config) -> tuple[Group, ...]:
    groups = [Group(MAIN, None, config.edge.upstreams or (_own_address(config),))]
    by_feature: dict[str, list[str]] = {}
    spelt: dict[str, str] = {}
    for each in config.edge.feature_upstreams:
        slug, _, upstream = each.rpartition("=")
        if spelt.setdefault(slug.casefold(), slug) != slug:
            # nginx does not tell them apart.
            raise StartError(
                f'[edge] feature_upstreams: "{slug}" and "{spelt[slug.casefold()]}" differ in case alone: '
                "expected one of them"
            )
        by_feature.setdefault(slug, []).append(upstream)
    for number, (slug, upstreams) in enumerate(by_feature.items(), 1):
        groups.append(Group(f"{MAIN}_feature_{number}", quote(slug, safe=""), tuple(upstreams)))
    if config.edge.events_upstreams:
        groups.append(Group(f"{MAIN}_events", None, config.edge.events_upstreams, tells_events=True))
    return tuple(groups)


def _upstream_tls(config: Config) -> UpstreamTls | None:
    edge, server = config.edge, config.server
    named = (edge.upstream_server_name, edge.upstream_certificate, edge.upstream_certificate_key)
    if edge.upstream_ca is None:
        if server.tls_certificate is not None or any(named):
            why = "the service has [server] tls_certificate" if server.tls_certificate else "instances are to have TLS"
            raise StartError(
                f"[edge] upstream_ca: is missing, while {why}: expected the path of the certificates that vouch for "
                "the instances' (--upstream-ca)"
            )
        return None
    if edge.upstream_server_name is None:
        raise StartError(
            "[edge] upstream_server_name: is missing: expected the DNS name in the certificates of the instances "
            "(--upstream-server-name)"
        )
    certificate, key = edge.upstream_certificate, edge.upstream_certificate_key
    if certificate is None and key is None and server.tls_client_ca is None:
        return UpstreamTls(edge.upstream_ca, edge.upstream_server_name, None)
    if certificate is None or key is None:
        raise StartError(
            "[edge] upstream_certificate, upstream_certificate_key: expected both, the paths of what the edge shows to "
            "instances that ask for a certificate (--upstream-certificate, --upstream-certificate-key)"
        )
    return UpstreamTls(edge.upstream_ca, edge.upstream_server_name, Tls(certificate, key))


def _own_address(config: Config) -> str:
    host, port = config.server.host, config.server.port
    if not port:
        raise StartError("[edge] upstreams: is missing, and [server] port = 0 names none: expected host:port of each")
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - there it listens on all addresses, of which one is enough
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not is_host_port(address):
        raise StartError(f"[server] host = {host!r}: expected a host name or an IP address, or [edge] upstreams")
    return address
