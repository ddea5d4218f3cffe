"""The composition root: the only place that names concrete parts and puts them together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import structlog

from tollhouse.admin.service import Administration
from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.catalogue import base_url, compile_configured
from tollhouse.apps.control import control_plane
from tollhouse.apps.edge import answering_the_edge
from tollhouse.apps.following import follow_prices
from tollhouse.apps.health import Health, Probe
from tollhouse.apps.housekeeping import keep_house
from tollhouse.audit.service import AuditLog
from tollhouse.audit.uses import FIRST_USED, NotableUses
from tollhouse.billing.service import UsageReports
from tollhouse.completions.call import Limits, Planner
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.models import Candidate, Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.relay import StreamBounds
from tollhouse.completions.routes import Routes
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.config import Config, Secrets, load_config
from tollhouse.engines import Engine, open_engine
from tollhouse.errors import StartError, Unavailable
from tollhouse.gate.service import Gate
from tollhouse.keys.model import Principal
from tollhouse.keys.service import ADMIN_KEY_ID, new_api_key
from tollhouse.keys.store import mark_used
from tollhouse.kit.clock import Clock, SystemClock
from tollhouse.kit.money import nano_usd
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.pricing.catalogue import Catalogue
from tollhouse.providers.base import Adapter, SearchesUnasked
from tollhouse.providers.dial import default_tls
from tollhouse.providers.registry import adapter_for
from tollhouse.providers.transport import TransportLimits, Upstream, proxy_from_environment
from tollhouse.reconciliation.model import PriceOf
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.storage.lock import Owner
from tollhouse.telemetry.metrics import Metrics

_LOG = structlog.get_logger("tollhouse.start")
_OPERATOR_KEY_ID = "operator"


class Core(msgspec.Struct, frozen=True):
    """What both the service and the administrative commands stand on."""

    engine: Engine
    metrics: Metrics
    administration: Administration
    uses: NotableUses
    clock: Clock


class Service(msgspec.Struct, frozen=True):
    """The assembled API process.

    Attributes:
        app: everything but completion calls.
        endpoint: completion calls.
        describe: tells commands on this machine where the process serves.
        operator_token: a super-admin key for these commands; it ends with the process.
    """

    app: AsgiApp
    endpoint: CompletionEndpoint
    describe: Callable[[Owner], None]
    operator_token: str


@asynccontextmanager
async def open_core(config: Config, secrets: Secrets, clock: Clock, *, serves: bool) -> AsyncIterator[Core]:
    """Open the database, and the administration of what is in it; raises StartError.

    Args:
        serves: whether the process is an instance of the service, rather than a command.
    """
    async with open_engine(config, secrets, clock) as engine:
        if secrets.admin_key is not None:
            engine.keyring.trust(secrets.admin_key, Principal(ADMIN_KEY_ID, "admin", "super-admin", None))
        administration = Administration(
            engine.database,
            engine.keyring,
            clock,
            tiers={name: nano_usd(tier.budget_usd) for name, tier in config.tiers.items()},
            default_tier=config.tenants.default_tier,
        )
        # A command may run anywhere, with another configuration than the instances of a shared database.
        if serves or config.database.is_embedded:
            await administration.follow_tiers()
        uses = NotableUses(engine.reserved, clock, mark_used)
        engine.keyring.when_first_used = partial(uses.note, FIRST_USED)
        yield Core(engine, Metrics(), administration, uses, clock)


@asynccontextmanager
async def open_control_plane(
    config: Config, secrets: Secrets, clock: Clock | None = None
) -> AsyncIterator[tuple[AsgiApp, str]]:
    """Assemble the control plane alone, for commands; yields it with a super-admin key. Raises StartError."""
    async with open_core(config, secrets, clock or SystemClock(), serves=False) as core:
        reconciliation = _reconciliation(config, core, lambda: _compiled_prices(config, core.clock))
        # Commands list no models.
        listing = ModelListing(Models({}, {}, PriceBook({}, {}, core.clock)), core.engine.database)
        yield _control_plane(core, reconciliation, {}, listing), _operator_token(core)


@asynccontextmanager
async def open_service(
    config: Config,
    secrets: Secrets,
    environ: Mapping[str, str],
    catalogue: Awaitable[Catalogue],
    clock: Clock,
    file: Path,
) -> AsyncIterator[Service]:
    """Assemble the whole API process; raises StartError.

    Args:
        catalogue: the prices being compiled; waited for once they are needed.
        file: where the configuration came from, if it exists; its prices are followed.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_core(config, secrets, clock, serves=True))
        upstreams = make_upstreams(config, environ)
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.close)
        known = await catalogue
        prices = PriceBook(configured_prices(config), known.prices, clock)
        models = _models(config, secrets, upstreams, prices, known.context_windows)
        routes = _routes(config, core, models)
        reconciliation = _reconciliation(config, core, lambda: _known_prices(prices))

        def expire_unknown() -> Awaitable[int]:
            return reconciliation.expire(config.ledger.unknown_hold_hours)

        engine = core.engine

        def load_prices() -> dict[str, ConfiguredPrice]:
            return configured_prices(load_config(file, environ))

        duties = (*engine.duties, core.uses.keep_writing, lambda: follow_prices(prices, file, load_prices))
        stack.push_async_callback(core.uses.flush)
        house = asyncio.create_task(
            keep_house(engine.ledger, engine.reserved, clock, _probes(upstreams), expire_unknown, duties)
        )
        stack.callback(house.cancel)
        endpoint = CompletionEndpoint(routes, core.metrics, clock, core.uses)
        listing = ModelListing(models, core.engine.database)
        app = _control_plane(core, reconciliation, upstreams, listing)
        app = answering_the_edge(app, core.engine.keyring, clock)
        yield Service(app, endpoint, core.engine.describe, _operator_token(core))


def _operator_token(core: Core) -> str:
    token = new_api_key()
    core.engine.keyring.trust(token, Principal(_OPERATOR_KEY_ID, "operator", "super-admin", None))
    return token


def _reconciliation(config: Config, core: Core, prices: Callable[[], Awaitable[PriceOf]]) -> Reconciliation:
    upstream_names: dict[str, dict[str, str]] = {name: {} for name in config.providers}
    for name, settings in config.models.items():
        upstream_names[settings.provider][name] = settings.upstream_model or name
    return Reconciliation(core.engine.database, core.clock, prices, upstream_names)


async def _known_prices(prices: PriceBook) -> PriceOf:
    return prices.get


async def _compiled_prices(config: Config, clock: Clock) -> PriceOf:
    """Return the prices for a command that needs them, which few do; raises Unavailable."""
    try:
        return PriceBook(configured_prices(config), (await compile_configured(config, clock)).prices, clock).get
    except StartError as error:
        raise Unavailable(str(error)) from error


def _control_plane(
    core: Core, reconciliation: Reconciliation, upstreams: Mapping[str, Upstream], listing: ModelListing
) -> AsgiApp:
    health = Health(
        database=core.engine.reserved,
        ledger=core.engine.ledger,
        metrics=core.metrics,
        clock=core.clock,
        probes=_probes(upstreams),
        is_in_touch=core.engine.is_in_touch,
    )
    return control_plane(
        administration=core.administration,
        usage=UsageReports(core.engine.database, core.clock),
        reconciliation=reconciliation,
        listing=listing,
        keyring=core.engine.keyring,
        clock=core.clock,
        metrics=core.metrics,
        health=health,
        uses=core.uses,
    )


def _probes(upstreams: Mapping[str, Upstream]) -> dict[str, Probe]:
    return {name: upstream.probe for name, upstream in upstreams.items()}


def _routes(config: Config, core: Core, models: Models) -> Routes:
    pipeline = Pipeline(
        gate=Gate(core.engine.database),
        ledger=core.engine.ledger,
        audit=AuditLog(core.engine.database, core.clock),
        metrics=core.metrics,
        clock=core.clock,
        bounds=StreamBounds(
            heartbeat_s=config.limits.heartbeat_s,
            drain_timeout_s=config.limits.drain_timeout_s,
            drain_bytes=config.limits.drain_bytes,
        ),
    )
    limits = Limits(
        call_timeout_s=config.limits.call_timeout_s,
        max_timeout_s=config.limits.max_timeout_s,
        stream_timeout_s=config.limits.stream_timeout_s,
        default_max_output_tokens=config.limits.default_max_output_tokens,
        keep_answers_hours=config.idempotency.keep_hours,
    )
    planner = Planner(models, core.clock, limits)
    return Routes(core.engine.keyring, planner, pipeline, apis=CLIENT_APIS, gemini=GEMINI_VERBS)


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


def _models(
    config: Config,
    secrets: Secrets,
    upstreams: Mapping[str, Upstream],
    prices: PriceBook,
    context_windows: Mapping[str, int],
) -> Models:
    adapters = {
        name: adapter_for(
            settings.kind,
            base_url=base_url(config, name),
            api_key=secrets.provider_api_keys.get(name, ""),
            has_responses=settings.has_responses,
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
            context_window=settings.context_window or context_windows.get(name),
            max_image_tokens=_max_image_tokens(config, name),
            own_searches=_own_searches(adapters[settings.provider], settings.upstream_model or name),
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
    aliases = {alias: name for name, settings in config.models.items() for alias in settings.aliases}
    return Models(candidates, fallbacks, prices, aliases=aliases, tiers=_tiers_of_models(config))


def _tiers_of_models(config: Config) -> dict[str, frozenset[str]]:
    """Return, for each model, the tiers that have it; nothing where every tier has every model."""
    if all(tier.models is None for tier in config.tiers.values()):
        return {}
    return {
        name: frozenset(t for t, tier in config.tiers.items() if tier.models is None or name in tier.models)
        for name in config.models
    }


def _max_image_tokens(config: Config, name: str) -> int:
    """Return the most tokens that one picture counts as, unless it is configured what is known of the vendor.

    OpenAI's gpt-4o-mini counts a picture in full detail as up to 48,169 tokens (2,833 and 5,667 a tile), its other
    models as up to 2,500; Anthropic's count up to 4,784, and Google's up to 258 a tile.
    """
    settings = config.models[name]
    if settings.max_image_tokens is not None:
        return settings.max_image_tokens
    is_small = "4o-mini" in (settings.upstream_model or name)
    return 50_000 if is_small and config.providers[settings.provider].kind == "openai" else 6_000


def _own_searches(adapter: Adapter, upstream_model: str) -> int:
    return adapter.own_searches(upstream_model) if isinstance(adapter, SearchesUnasked) else 0


def configured_prices(config: Config) -> dict[str, ConfiguredPrice]:
    """Return the prices that the configuration itself gives, by model."""
    return {
        name: ConfiguredPrice(**msgspec.structs.asdict(settings.price))
        for name, settings in config.models.items()
        if settings.price is not None
    }
