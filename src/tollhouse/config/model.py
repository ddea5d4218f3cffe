"""What can be configured: frozen types whose fields carry their default and their bounds.

Each value is ``Annotated`` with a ``Meta`` whose description completes the sentence "expected …", and
whose ``extra["accepts"]``, where there is one, is the part of the rule that bounds alone cannot say.
docs/configuration.md describes the same keys to operators; a test keeps the two equal.
"""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tollhouse.config.events import Events, Webhooks
from tollhouse.config.guardrails import Feature, Guardrails
from tollhouse.config.jobs import Jobs, Reports
from tollhouse.config.rules import (
    PATHS,
    SERVER_NAME,
    SERVER_NAMES,
    SMALLEST_USD_FOR_1000,
    SQLITE_SCHEME,
    accepting,
    each,
    is_address,
    is_base_url,
    is_database_url,
    is_feature_upstream,
    is_host_name,
    is_host_port,
    is_network,
    is_path,
    is_plain_text,
    seconds,
    usd,
    whole,
)
from tollhouse.config.section import Section
from tollhouse.config.values import Name, Secret, Switch

MEBIBYTE = 1024 * 1024


Usd = Annotated[Decimal, usd(1_000_000_000)]
UsdPerMillionTokens = Annotated[Decimal, usd(100_000)]
UsdForThousand = Annotated[Decimal, usd(100_000, SMALLEST_USD_FOR_1000)]
ProviderKind = Literal["anthropic", "openai", "deepseek", "gemini"]
TlsVersion = Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')]
Fallbacks = Annotated[tuple[str, ...], Meta(description="a list of names of other configured models, each once")]
Share = Annotated[float, Meta(gt=0, le=1, description="a number above 0 and at most 1")]


class Server(Section, frozen=True):
    """The HTTP server that callers reach."""

    host: Annotated[str, accepting(is_plain_text, "a host name or an IP address")] = "127.0.0.1"
    port: Annotated[int, whole(0, 65_535)] = 8080
    """0 lets the operating system choose a free one."""
    max_body_bytes: Annotated[int, whole(1024, 1024 * MEBIBYTE)] = 10 * MEBIBYTE
    max_header_bytes: Annotated[int, whole(1024, MEBIBYTE)] = 32 * 1024
    body_timeout_s: Annotated[float, seconds(3600)] = 30
    header_timeout_s: Annotated[float, seconds(3600)] = 10
    stop_timeout_s: Annotated[float, seconds(3600)] = 75
    """How long a graceful stop waits for calls in flight."""
    max_connections: Annotated[int, whole(1, 1_000_000)] = 10_000
    tls_certificate: Annotated[str, accepting(is_path, PATHS)] | None = None
    """With ``tls_key`` everything is served by TLS."""
    tls_key: Annotated[str, accepting(is_path, PATHS)] | None = None
    tls_client_ca: Annotated[str, accepting(is_path, PATHS)] | None = None
    """Whose certificates callers have to show; None asks for none."""
    tls_minimum_version: TlsVersion | None = None
    """None: 1.2, or 1.3 where callers have to show certificates."""
    admin_host: Annotated[str, accepting(is_plain_text, "a host name or an IP address")] = "127.0.0.1"
    admin_port: Annotated[int, whole(0, 65_535)] | None = None
    """Where operators' addresses are served, and then only there; None serves all at ``port``."""
    admin_tls: Switch = True
    """False speaks plain HTTP at ``admin_port``, for probes and scrapers that have no certificate."""


class Database(Section, frozen=True):
    """Where budgets and the ledger are kept."""

    url: Annotated[str, accepting(is_database_url, "sqlite:///FILE or postgresql://user:password@host:5432/name")] = (
        "sqlite:///./tollhouse.db"
    )

    timeout_s: Annotated[float, seconds(60)] = 5
    """On PostgreSQL, how long a call waits for the database before it gets 503."""
    lease_s: Annotated[float, Meta(ge=2, le=60, description="a number of seconds from 2 to 60")] = 10
    """On PostgreSQL, how long an instance may be out of touch before the others declare it lost."""

    @property
    def is_embedded(self) -> bool:
        """Whether it is a file of this process's own, rather than a server that several instances share."""
        return self.url.startswith(SQLITE_SCHEME)

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file of an embedded database, a relative one being relative to the current directory."""
        assert self.is_embedded, "a server's database has no file here"
        return Path(self.url.removeprefix(SQLITE_SCHEME))


class Auth(Section, frozen=True):
    """The secrets that guard the service itself."""

    admin_key: Secret | None = None
    """A super-admin key that always works, of at least 24 characters."""
    pepper: Secret | None = None
    """Mixed into the stored hash of every service key."""


class ProviderKey(Section, frozen=True):
    """One of several keys of a provider."""

    api_key: Secret
    weight: Annotated[int, whole(1, 1000)] = 1
    """Its share of the calls, beside the weights of the others."""


class Provider(Section, frozen=True):
    """A provider's API, reached under one address, with one key or several."""

    kind: Annotated[ProviderKind, Meta(description="one of anthropic, openai, deepseek, gemini")]
    base_url: (
        Annotated[
            str,
            accepting(is_base_url, "an http:// or https:// URL with a host, without user name or fragment"),
        ]
        | None
    ) = None
    """What the vendor's own SDK calls its base URL; None for the vendor's public one."""
    api_key: Secret | None = None
    keys: dict[Name, ProviderKey] = {}
    """Several keys in place of ``api_key``."""
    key_rest_s: Annotated[float, seconds(86_400)] = 60
    """How long a key rests that the provider turned away, unless the provider says how long."""
    timeout_s: Annotated[float, seconds(3600)] = 60
    first_byte_timeout_s: Annotated[float, seconds(3600)] | None = None
    """From sending a call until its answer begins, at most ``timeout_s``; None sets no limit of its own."""
    connect_timeout_s: Annotated[float, seconds(3600)] = 5
    """For name, TCP, proxy and TLS together."""
    max_connections: Annotated[int, whole(1, 100_000)] = 1000
    max_calls: Annotated[int, whole(1, 100_000)] | None = None
    """Calls under way at once; None leaves it to ``max_connections``."""
    max_tenant_calls: Annotated[int, whole(1, 100_000)] | None = None
    """… of one tenant; None sets no limit."""
    max_waiting: Annotated[int, whole(0, 100_000)] = 100
    """Calls that may wait for one of these places: in all, and of one tenant."""
    max_wait_s: Annotated[float, seconds(3600)] = 1
    """How long they wait at the longest."""
    has_responses: Switch | None = None
    """Whether it serves OpenAI's Responses API itself; None: OpenAI's, Azure's and DeepSeek's own addresses do."""


class Price(Section, frozen=True):
    """A model's rates in USD per million tokens; None takes the rate of the class that a class is a part of."""

    input: UsdPerMillionTokens
    output: UsdPerMillionTokens
    cached_input: UsdPerMillionTokens | None = None
    cache_write: UsdPerMillionTokens | None = None
    cache_write_1h: UsdPerMillionTokens | None = None
    reasoning: UsdPerMillionTokens | None = None
    audio_input: UsdPerMillionTokens | None = None
    image_input: UsdPerMillionTokens | None = None
    audio_output: UsdPerMillionTokens | None = None
    image_output: UsdPerMillionTokens | None = None
    search: UsdForThousand | None = None
    """For 1,000 uses of the provider's own search tool; None: calls that may use it are refused."""


class Model(Section, frozen=True):
    """A model that callers may name."""

    provider: Annotated[str, Meta(description="the name of a configured provider")]
    upstream_model: Name | None = None
    """The model's name at the provider; None when it is the same."""
    fallbacks: Fallbacks = ()
    aliases: Annotated[tuple[str, ...], Meta(description="a list of further names, each once and no model's own")] = ()
    """Further names under which callers may name it."""
    price: Price | None = None
    """None takes the price from the price catalogue."""
    max_output_tokens: Annotated[int, whole(1, 10_000_000)] | None = None
    input_overhead_tokens: Annotated[int, whole(0, 1_000_000)] = 64
    """The most input tokens that the provider adds to a call, such as its template's own system prompt."""
    context_window: Annotated[int, whole(1, 100_000_000)] | None = None
    """The most tokens the model takes; None takes it from the price catalogue, if the price is from there too."""
    max_image_tokens: Annotated[int, whole(0, 10_000_000)] | None = None
    """The most tokens that one picture counts as; None takes what is known of the provider."""


PerMinute = Annotated[int, whole(0, 1_000_000_000)]
Burst = Annotated[int, whole(1, 1_000_000_000)]


class OwnLimits(Section, frozen=True):
    """Limits that take the place of others; None leaves those in force."""

    requests_per_minute: PerMinute | None = None
    burst: Burst | None = None
    tokens_per_minute: PerMinute | None = None
    concurrent_calls: PerMinute | None = None


class TierLimits(OwnLimits, frozen=True):
    """What a tier's tenants have in the place of ``[limits]``, and each of their users and features."""

    user: OwnLimits = OwnLimits()
    feature: OwnLimits = OwnLimits()


class Limits(Section, frozen=True):
    """What one tenant may ask for, and how long a call may take."""

    requests_per_minute: PerMinute = 100
    """0 sets no limit, here and in what follows."""
    burst: Burst = 20
    tokens_per_minute: PerMinute = 0
    concurrent_calls: PerMinute = 0
    user: OwnLimits = OwnLimits()
    """Of each user of a tenant; None of it sets no limit. So with ``feature``, and ``key`` over all tenants."""
    feature: OwnLimits = OwnLimits()
    key: OwnLimits = OwnLimits()
    call_timeout_s: Annotated[float, seconds(3600)] = 60
    """The deadline of calls that name none; at most ``max_timeout_s``."""
    max_timeout_s: Annotated[float, seconds(3600)] = 600
    stream_timeout_s: Annotated[float, seconds(86_400)] = 600
    """How long a streamed answer may take from beginning to end."""
    heartbeat_s: Annotated[float, seconds(3600)] = 15
    """After so long without anything to send, a stream's connection is kept alive by a comment."""
    drain_timeout_s: Annotated[float, seconds(3600)] = 60
    """How long a streamed answer is read on, for its usage, once its caller has left."""
    drain_bytes: Annotated[int, whole(0, 1024 * MEBIBYTE)] = 4 * MEBIBYTE
    """… and how much of it; beyond either it is given up, and held at its ceiling."""
    default_max_output_tokens: Annotated[int, whole(1, 10_000_000)] = 4096
    """The output limit of a client's request that sets none, of a model without ``max_output_tokens``."""


class Tenants(Section, frozen=True):
    """What a new tenant gets."""

    default_tier: Annotated[str, Meta(description="the name of a tier")] = "starter"


class Failover(Section, frozen=True):
    """How a call is tried again, and by whom."""

    max_retry_after_s: Annotated[float, seconds(3600)] = 2
    """The longest pause that a provider may ask for and still be tried again while a fallback could answer."""
    hedge: Switch = False
    """Whether a second attempt is begun when the first one takes unusually long."""
    hedge_quantile: Share = 0.95
    """The share of calls that are faster than what counts as unusually long."""
    hedge_max_usd: Usd = Decimal("0.01")
    """The highest ceiling of a call that is begun twice."""


class Breaker(Section, frozen=True):
    """When a model at a provider is left alone."""

    enabled: Switch = True
    window_s: Annotated[float, seconds(3600)] = 30
    min_calls: Annotated[int, whole(1, 1_000_000)] = 20
    failure_rate: Share = 0.5
    consecutive_failures: Annotated[int, whole(1, 1_000_000)] = 10
    slow_call_s: Annotated[float, seconds(3600)] | None = None
    """A call that takes longer is slow, a stream one whose first token does; None counts none as slow."""
    slow_call_rate: Share = 0.8
    open_s: Annotated[float, seconds(3600)] = 5
    max_open_s: Annotated[float, seconds(3600)] = 60
    slow_start_s: Annotated[float, seconds(3600)] = 10
    reach_every_s: Annotated[float, seconds(3600)] = 10
    """How often it is looked whether a connection to each provider can be made."""


class Shedding(Section, frozen=True):
    """What this process may be at before it turns calls away."""

    max_lag_s: Annotated[float, seconds(60)] | None = 2
    """By how much the event loop may be late."""
    max_memory_bytes: Annotated[int, whole(64 * MEBIBYTE, 1 << 50)] | None = None
    """None: nine tenths of what the control group allows this process, where there is such a limit."""
    max_calls: Annotated[int, whole(1, 1_000_000)] | None = None
    """Calls under way at once."""


class Tier(Section, frozen=True):
    """What tenants of a tier share."""

    budget_usd: Usd
    """The cap for each calendar month (UTC)."""
    models: Annotated[tuple[str, ...], Meta(description="a list of names of configured models, each once")] | None = (
        None
    )
    """The models that its tenants may name; None for all."""
    fallbacks: dict[Name, Fallbacks] = {}
    """By model, who answers instead for its tenants; a model that is not named has its own fallbacks."""
    limits: TierLimits = TierLimits()


class Idempotency(Section, frozen=True):
    """How answers are kept for repeated calls."""

    keep_hours: Annotated[int, whole(1, 8760)] = 24


class Ledger(Section, frozen=True):
    """How long the ledger waits for what it does not know."""

    unknown_hold_hours: Annotated[int, whole(1, 8760)] = 72
    """How long the ceiling of a call of unknown outcome stays counted, unless reconciliation resolves it."""


class Edge(Section, frozen=True):
    """The edge gateway in front of the service, whose configuration ``tollhouse edge`` writes."""

    upstreams: Annotated[
        tuple[str, ...], accepting(each(is_host_port), "a list of host:port, or [IPv6]:port, each once")
    ] = ()
    """The instances; none stands for the one that this configuration itself describes."""
    feature_upstreams: Annotated[
        tuple[str, ...], accepting(each(is_feature_upstream), "a list of feature=host:port, each once")
    ] = ()
    """Instances that take the requests of a feature; those of one feature share them."""
    events_upstreams: Annotated[
        tuple[str, ...], accepting(each(is_host_port), "a list of host:port, or [IPv6]:port, each once")
    ] = ()
    """Processes that take those who follow events; none leaves them to the instances."""
    server_names: Annotated[
        tuple[str, ...], accepting(each(lambda name: SERVER_NAME.fullmatch(name) is not None), SERVER_NAMES)
    ] = ()
    """The host names that are served; none stands for any."""
    address: Annotated[str, accepting(is_address, "an IP address")] = "0.0.0.0"  # noqa: S104 - it is the way in
    https_port: Annotated[int, whole(1, 65_535)] = 443
    http_port: Annotated[int, whole(0, 65_535)] = 80
    """Redirects to HTTPS, or with ``plain_http`` serves; 0: nobody listens there."""
    plain_http: Annotated[bool, Meta(description="true or false")] = False
    """Serve without TLS, behind something that ends it."""
    certificate: Annotated[str, accepting(is_path, PATHS)] | None = None
    certificate_key: Annotated[str, accepting(is_path, PATHS)] | None = None
    upstream_ca: Annotated[str, accepting(is_path, PATHS)] | None = None
    """With it instances are reached by TLS; these certificates vouch for theirs."""
    upstream_server_name: Annotated[str, accepting(is_host_name, "a host name")] | None = None
    """The name in the certificates of all instances."""
    upstream_certificate: Annotated[str, accepting(is_path, PATHS)] | None = None
    """What the edge shows to instances that ask for a certificate."""
    upstream_certificate_key: Annotated[str, accepting(is_path, PATHS)] | None = None
    trusted_proxies: Annotated[
        tuple[str, ...], accepting(each(is_network), "a list of IP addresses or networks, each once")
    ] = ()
    """Proxies in front of the edge, whose word on the client's address is taken."""
    read_timeout_s: Annotated[int, whole(1, 86_400)] = 60
    """How long a service may send nothing; streams send heartbeats."""
    max_fails: Annotated[int, whole(1, 1000)] = 3
    """After so many failures an instance gets no requests …"""
    fail_timeout_s: Annotated[int, whole(1, 3600)] = 10
    """… for so long, in which the failures are also counted."""


REFERENCE_TIERS = {
    "starter": Tier(budget_usd=Decimal(2)),
    "growth": Tier(budget_usd=Decimal(10)),
    "enterprise": Tier(budget_usd=Decimal(50)),
}


class Config(Section, frozen=True):
    """The whole configuration, checked."""

    server: Server = Server()
    database: Database = Database()
    auth: Auth = Auth()
    providers: dict[Name, Provider] = {}
    models: dict[Name, Model] = {}
    limits: Limits = Limits()
    tenants: Tenants = Tenants()
    tiers: dict[Name, Tier] = msgspec.field(default_factory=lambda: dict(REFERENCE_TIERS))
    """Configured tiers join the reference tiers, or take their place under the same name."""
    failover: Failover = Failover()
    breaker: Breaker = Breaker()
    shedding: Shedding = Shedding()
    idempotency: Idempotency = Idempotency()
    ledger: Ledger = Ledger()
    events: Events = Events()
    webhooks: Webhooks = Webhooks()
    jobs: Jobs = Jobs()
    reports: Reports = Reports()
    edge: Edge = Edge()
    guardrails: Guardrails = Guardrails()
    features: dict[Name, Feature] = {}

    @property
    def serves_jobs(self) -> bool:
        """Whether ``serve`` runs a worker too."""
        return self.database.is_embedded if self.jobs.in_serve is None else self.jobs.in_serve
