"""The composition root: the only place that names concrete parts and puts them together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog

from tollhouse.admin.service import Administration
from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.catalogue import base_url
from tollhouse.apps.control import control_plane
from tollhouse.apps.health import Health, Probe
from tollhouse.apps.housekeeping import keep_house
from tollhouse.audit.service import AuditLog
from tollhouse.billing.service import UsageReports
from tollhouse.completions.call import Planner
from tollhouse.completions.models import Candidate, Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.routes import CompleteRoute
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError, Unavailable
from tollhouse.gate.ratelimit import RateLimiter
from tollhouse.gate.service import Gate
from tollhouse.gate.sqlite import SqliteGate
from tollhouse.keys.model import Principal
from tollhouse.keys.pepper import pepper_path
from tollhouse.keys.service import ADMIN_KEY_ID, Keyring, new_api_key, open_keyring
from tollhouse.kit.clock import Clock, SystemClock
from tollhouse.kit.money import nano_usd
from tollhouse.ledger import sqlite as sqlite_ledger
from tollhouse.ledger.service import Ledger
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.pricing.catalogue import Catalogue
from tollhouse.providers.dial import default_tls
from tollhouse.providers.registry import adapter_for
from tollhouse.providers.transport import TransportLimits, Upstream, proxy_from_environment
from tollhouse.storage.lock import DatabaseLock
from tollhouse.storage.sqlite import SqliteDatabase
from tollhouse.telemetry.metrics import Metrics

_LOG = structlog.get_logger("tollhouse.start")
_OPERATOR_KEY_ID = "operator"


class Core(msgspec.Struct, frozen=True):
    """What both the service and the administrative commands stand on."""

    lock: DatabaseLock
    database: SqliteDatabase
    keyring: Keyring
    ledger: Ledger
    metrics: Metrics
    administration: Administration
    clock: Clock


class Service(msgspec.Struct, frozen=True):
    """The assembled API process.

    Attributes:
        app: everything but completion calls.
        endpoint: completion calls.
        operator_token: a super-admin key for commands on this machine; it ends with the process.
    """

    app: AsgiApp
    endpoint: CompletionEndpoint
    lock: DatabaseLock
    operator_token: str


@asynccontextmanager
async def open_core(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Core]:
    """Own the database, migrated and recovered, and the keys in it; raises StartError."""
    path = config.database.sqlite_path
    with DatabaseLock(path) as lock:
        database = SqliteDatabase(path)
        SqliteGate(clock, _rate_limiter(config)).handle_on(database)
        sqlite_ledger.handle_on(database)
        try:
            database.open()
            ledger = Ledger(database, clock)
            try:
                await ledger.recover()
                keyring = await open_keyring(database, secrets.pepper, pepper_path(path))
            except Unavailable as error:
                raise StartError(
                    f"{path}: {error.message}. Expected a sound database on a disk with room; a damaged one is "
                    "restored from a backup"
                ) from error
            if secrets.admin_key is not None:
                keyring.trust(secrets.admin_key, Principal(ADMIN_KEY_ID, "admin", "super-admin", None))
            administration = Administration(
                database,
                keyring,
                clock,
                tiers={name: nano_usd(tier.budget_usd) for name, tier in config.tiers.items()},
                default_tier=config.tenants.default_tier,
            )
            await administration.follow_tiers()
            yield Core(lock, database, keyring, ledger, Metrics(), administration, clock)
            await ledger.flush()
        finally:
            await database.close()


@asynccontextmanager
async def open_control_plane(
    config: Config, secrets: Secrets, clock: Clock | None = None
) -> AsyncIterator[tuple[AsgiApp, str]]:
    """Assemble the control plane alone, for commands; yields it with a super-admin key. Raises StartError."""
    async with open_core(config, secrets, clock or SystemClock()) as core:
        yield _control_plane(core, {}), _operator_token(core)


@asynccontextmanager
async def open_service(
    config: Config, secrets: Secrets, environ: Mapping[str, str], catalogue: Awaitable[Catalogue], clock: Clock
) -> AsyncIterator[Service]:
    """Assemble the whole API process; raises StartError.

    Args:
        catalogue: the prices being compiled; waited for once they are needed.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_core(config, secrets, clock))
        upstreams = make_upstreams(config, environ)
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.close)
        prices = PriceBook(configured_prices(config), await catalogue, clock)
        complete = _complete_route(config, secrets, core, upstreams, prices)
        house = asyncio.create_task(keep_house(core.ledger, core.database, clock, _probes(upstreams)))
        stack.callback(house.cancel)
        endpoint = CompletionEndpoint(complete, core.metrics, clock)
        yield Service(_control_plane(core, upstreams), endpoint, core.lock, _operator_token(core))


def _rate_limiter(config: Config) -> RateLimiter:
    return RateLimiter(requests_per_minute=config.limits.requests_per_minute, burst=config.limits.burst)


def _operator_token(core: Core) -> str:
    token = new_api_key()
    core.keyring.trust(token, Principal(_OPERATOR_KEY_ID, "operator", "super-admin", None))
    return token


def _control_plane(core: Core, upstreams: Mapping[str, Upstream]) -> AsgiApp:
    health = Health(
        database=core.database,
        ledger=core.ledger,
        metrics=core.metrics,
        clock=core.clock,
        probes=_probes(upstreams),
    )
    return control_plane(
        administration=core.administration,
        usage=UsageReports(core.database, core.clock),
        keyring=core.keyring,
        clock=core.clock,
        metrics=core.metrics,
        health=health,
    )


def _probes(upstreams: Mapping[str, Upstream]) -> dict[str, Probe]:
    return {name: upstream.probe for name, upstream in upstreams.items()}


def _complete_route(
    config: Config, secrets: Secrets, core: Core, upstreams: Mapping[str, Upstream], prices: PriceBook
) -> CompleteRoute:
    pipeline = Pipeline(
        gate=Gate(core.database),
        ledger=core.ledger,
        audit=AuditLog(core.database, core.clock),
        metrics=core.metrics,
        clock=core.clock,
    )
    planner = Planner(
        _models(config, secrets, upstreams, prices),
        core.clock,
        call_timeout_s=config.limits.call_timeout_s,
        max_timeout_s=config.limits.max_timeout_s,
        keep_answers_hours=config.idempotency.keep_hours,
    )
    return CompleteRoute(core.keyring, planner, pipeline)


def make_upstreams(config: Config, environ: Mapping[str, str]) -> dict[str, Upstream]:
    """Return the transport to each configured provider, by its name."""
    # One context for all, since each holds its own copy of the system's certificates.
    tls = default_tls()
    upstreams = {}
    for name, settings in config.providers.items():
        address = base_url(config, name)
        limits = TransportLimits(
            connect_timeout_s=settings.connect_timeout_s,
            max_connections=settings.max_connections,
            # Whoever got a connection to this service may wait for one to the provider, within its deadline.
            max_waiting=config.server.max_connections,
        )
        proxy_url = proxy_from_environment(address, environ)
        upstreams[name] = Upstream(address, limits=limits, tls=tls, proxy_url=proxy_url)
    return upstreams


def _models(config: Config, secrets: Secrets, upstreams: Mapping[str, Upstream], prices: PriceBook) -> Models:
    adapters = {
        name: adapter_for(
            settings.kind,
            base_url=base_url(config, name),
            api_key=secrets.provider_api_keys.get(name, ""),
        )
        for name, settings in config.providers.items()
    }
    candidates = {
        name: Candidate(
            model=name,
            provider=settings.provider,
            upstream_model=settings.upstream_model or name,
            adapter=adapters[settings.provider],
            transport=upstreams[settings.provider],
            timeout_s=config.providers[settings.provider].timeout_s,
            max_output_tokens=settings.max_output_tokens,
            input_overhead_tokens=settings.input_overhead_tokens,
            first_byte_timeout_s=config.providers[settings.provider].first_byte_timeout_s,
        )
        for name, settings in config.models.items()
    }
    fallbacks = {}
    for name, settings in config.models.items():
        fallbacks[name] = [other for other in settings.fallbacks if other in candidates]
        for missing in sorted(set(settings.fallbacks) - set(candidates)):
            _LOG.warning("a fallback is not configured, and is passed over", model=name, fallback=missing)
        if prices.get(name) is None:
            _LOG.warning("a model has no price, so calls of it are refused", model=name)
    return Models(candidates, fallbacks, prices)


def configured_prices(config: Config) -> dict[str, ConfiguredPrice]:
    """Return the prices that the configuration itself gives, by model."""
    return {
        name: ConfiguredPrice(**msgspec.structs.asdict(settings.price))
        for name, settings in config.models.items()
        if settings.price is not None
    }
