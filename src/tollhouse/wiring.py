"""The composition root: with ``engines.py`` and ``candidates.py`` the only place that names concrete parts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog

from tollhouse.admin.service import Administration
from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.audiences import for_followers_only
from tollhouse.apps.catalogue import compile_configured
from tollhouse.apps.control import control_plane
from tollhouse.apps.edge import answering_the_edge
from tollhouse.apps.events import telling_events
from tollhouse.apps.following import follow_prices
from tollhouse.apps.health import Health, memory_limit_bytes, resident_bytes
from tollhouse.apps.housekeeping import forget_regularly, keep_house, keep_running
from tollhouse.audit.journal import AuditJournal
from tollhouse.audit.service import AuditLog
from tollhouse.audit.uses import FIRST_USED, NotableUses
from tollhouse.billing.service import UsageReports
from tollhouse.candidates import make_guards, make_models, make_upstreams
from tollhouse.completions.call import Limits, Planner
from tollhouse.completions.hedging import Hedging
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.models import Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.relay import StreamBounds
from tollhouse.completions.routes import Routes
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.config import Config, Secrets, load_config
from tollhouse.engines import Engine, open_engine
from tollhouse.errors import StartError, Unavailable
from tollhouse.events.feed import Feed
from tollhouse.events.retention import forget_old
from tollhouse.gate.service import Gate
from tollhouse.guardrails.inspection import FeatureGuards
from tollhouse.guardrails.log import FindingsLog
from tollhouse.keys.model import Principal
from tollhouse.keys.service import ADMIN_KEY_ID, new_api_key
from tollhouse.keys.store import mark_used
from tollhouse.kit.clock import Clock, SystemClock
from tollhouse.kit.money import nano_usd
from tollhouse.notifications.service import Notifications
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.pricing.catalogue import Catalogue
from tollhouse.providers.transport import Upstream
from tollhouse.reconciliation.model import PriceOf
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.resilience.breaker import Transition
from tollhouse.resilience.guards import Guards
from tollhouse.resilience.reachability import Reachability
from tollhouse.resilience.shedding import LoadShedder, SheddingLimits
from tollhouse.storage.lock import Owner
from tollhouse.telemetry.events import event_metrics
from tollhouse.telemetry.guards import guard_metrics, shedding_metrics
from tollhouse.telemetry.metrics import Metrics
from tollhouse.tenants.tiers import TenantTiers
from tollhouse.webhooks.dispatcher import Dispatcher
from tollhouse.webhooks.sending import Sender
from tollhouse.webhooks.service import WebhookAdministration
from tollhouse.webhooks.signing import Vault

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
        end_streams: ends what clients follow for as long as they like; the process is to stop.
    """

    app: AsgiApp
    endpoint: CompletionEndpoint
    describe: Callable[[Owner], None]
    operator_token: str
    end_streams: Callable[[], None]


class Notifier(msgspec.Struct, frozen=True):
    """The assembled process that tells events.

    Attributes:
        end_streams: ends what clients follow for as long as they like; the process is to stop.
    """

    app: AsgiApp
    end_streams: Callable[[], None]


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
        app = _control_plane(config, core, reconciliation, listing, _reachability({}, core.clock, 1.0))
        yield app, _operator_token(core)


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
        journal = AuditJournal(AuditLog(core.engine.database, clock), clock)
        guards = make_guards(config, secrets, clock, partial(_tell_of_breaker, journal, core.metrics))
        models = make_models(config, secrets, upstreams, guards, prices, known.context_windows)
        findings = FindingsLog(core.engine.reserved, clock, core.metrics)
        pipeline = _pipeline(config, core, journal, findings)
        stack.push_async_callback(pipeline.background.finish, config.server.stop_timeout_s)
        routes = _routes(config, core, models, pipeline)
        shedder = LoadShedder(_shedding_limits(config), resident_bytes)
        reachability = _reachability(upstreams, clock, config.breaker.reach_every_s)
        core.metrics.add(lambda: guard_metrics(guards.samples(reachability)))
        core.metrics.add(lambda: shedding_metrics(shedder.shed, shedder.lag_s))
        reconciliation = _reconciliation(config, core, lambda: _known_prices(prices))
        notifications, dispatcher = _notifications(config, core), _dispatcher(config, core)
        duties = (
            *core.engine.duties,
            core.uses.keep_writing,
            lambda: follow_prices(prices, file, lambda: configured_prices(load_config(file, environ))),
            journal.keep_writing,
            findings.keep_writing,
            shedder.watch,
            reachability.keep_looking,
            *_event_duties(config, core, notifications, dispatcher),
        )
        expire = partial(reconciliation.expire, config.ledger.unknown_hold_hours)
        house = asyncio.create_task(keep_house(core.engine.ledger, core.engine.reserved, clock, expire, duties))
        # What was taken down last is written before the database is closed.
        stack.push_async_callback(core.uses.flush)
        stack.push_async_callback(_write_the_rest, journal, findings)
        stack.push_async_callback(dispatcher.finish)
        stack.callback(house.cancel)
        endpoint = CompletionEndpoint(routes, core.metrics, clock, core.uses, shedder)
        listing = ModelListing(models, core.engine.database)
        plane = _control_plane(config, core, reconciliation, listing, reachability, notifications, guards, shedder)
        plane = answering_the_edge(plane, core.engine.keyring, notifications.tokens, clock)
        app = telling_events(plane, notifications, clock)
        yield Service(app, endpoint, core.engine.describe, _operator_token(core), notifications.feed.close)


@asynccontextmanager
async def open_notifier(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Notifier]:
    """Assemble the process that does nothing but tell events and send webhooks; raises StartError."""
    if config.database.is_embedded:
        raise StartError(
            "[database] url: an embedded database has one process, whose `tollhouse serve` tells events itself; "
            "expected postgresql://user:password@host:5432/name"
        )
    async with open_core(config, secrets, clock, serves=False) as core, AsyncExitStack() as stack:
        notifications, dispatcher = _notifications(config, core), _dispatcher(config, core)
        duties = (*core.engine.duties, *_event_duties(config, core, notifications, dispatcher))
        stack.push_async_callback(dispatcher.finish)
        running = asyncio.create_task(keep_running(duties))
        stack.callback(running.cancel)
        listing = ModelListing(Models({}, {}, PriceBook({}, {}, clock)), core.engine.database)
        reconciliation = _reconciliation(config, core, lambda: _compiled_prices(config, clock))
        reachability = _reachability({}, clock, 1.0)
        app = _control_plane(config, core, reconciliation, listing, reachability, notifications)
        app = for_followers_only(telling_events(app, notifications, clock), clock)
        yield Notifier(app, notifications.feed.close)


def _operator_token(core: Core) -> str:
    token = new_api_key()
    core.engine.keyring.trust(token, Principal(_OPERATOR_KEY_ID, "operator", "super-admin", None))
    return token


def _reconciliation(config: Config, core: Core, prices: Callable[[], Awaitable[PriceOf]]) -> Reconciliation:
    upstream_names: dict[str, dict[str, str]] = {name: {} for name in config.providers}
    for name, settings in config.models.items():
        upstream_names[settings.provider][name] = settings.upstream_model or name
    return Reconciliation(core.engine.database, core.clock, prices, upstream_names)


def _vault(core: Core) -> Vault:
    return Vault(core.engine.keyring.derive(b"webhook secrets"))


def _webhooks(config: Config, core: Core) -> WebhookAdministration:
    gives_places = not config.database.is_embedded
    return WebhookAdministration(
        core.engine.database, core.clock, _vault(core), config.webhooks, gives_places=gives_places
    )


def _dispatcher(config: Config, core: Core) -> Dispatcher:
    settings = config.webhooks
    allowed = [ip_network(each) for each in settings.allow_networks]
    sender = Sender(core.clock, allowed, timeout_s=settings.timeout_s)
    gives_places = not config.database.is_embedded
    return Dispatcher(core.engine.reserved, core.clock, sender, _vault(core), settings, gives_places=gives_places)


def _event_duties(
    config: Config, core: Core, notifications: Notifications, dispatcher: Dispatcher
) -> tuple[Callable[[], Awaitable[None]], ...]:
    feed = notifications.feed
    core.metrics.add(
        lambda: event_metrics(feed.followers, notifications.dropped, dispatcher.tries, dispatcher.under_way)
    )
    return (
        feed.keep_reading,
        dispatcher.keep_delivering,
        partial(forget_regularly, "old events", partial(_forget_old_events, config, core)),
        partial(forget_regularly, "old webhooks", _webhooks(config, core).forget_old),
    )


def _forget_old_events(config: Config, core: Core) -> Awaitable[int]:
    gives_places = not config.database.is_embedded
    return forget_old(core.engine.reserved, core.clock, config.events.keep_days, gives_places=gives_places)


def _notifications(config: Config, core: Core) -> Notifications:
    feed = Feed(core.engine.database, gives_places=not config.database.is_embedded, poll_s=config.events.poll_s)
    return Notifications(feed, core.engine.keyring, core.clock, config.events)


async def _known_prices(prices: PriceBook) -> PriceOf:
    return prices.get


async def _compiled_prices(config: Config, clock: Clock) -> PriceOf:
    """Return the prices for a command that needs them, which few do; raises Unavailable."""
    try:
        return PriceBook(configured_prices(config), (await compile_configured(config, clock)).prices, clock).get
    except StartError as error:
        raise Unavailable(str(error)) from error


def _control_plane(
    config: Config,
    core: Core,
    reconciliation: Reconciliation,
    listing: ModelListing,
    reachability: Reachability,
    notifications: Notifications | None = None,
    guards: Guards | None = None,
    shedder: LoadShedder | None = None,
) -> AsgiApp:
    health = Health(
        database=core.engine.reserved,
        ledger=core.engine.ledger,
        metrics=core.metrics,
        clock=core.clock,
        reachability=reachability,
        guards=guards,
        shedder=shedder,
        is_in_touch=core.engine.is_in_touch,
    )
    return control_plane(
        administration=core.administration,
        usage=UsageReports(core.engine.database, core.clock),
        reconciliation=reconciliation,
        listing=listing,
        notifications=notifications or _notifications(config, core),
        webhooks=_webhooks(config, core),
        keyring=core.engine.keyring,
        clock=core.clock,
        metrics=core.metrics,
        health=health,
        uses=core.uses,
    )


def _reachability(upstreams: Mapping[str, Upstream], clock: Clock, every_s: float) -> Reachability:
    return Reachability({name: upstream.probe for name, upstream in upstreams.items()}, clock, every_s)


def _tell_of_breaker(
    journal: AuditJournal, metrics: Metrics, provider: str, model: str, transition: Transition
) -> None:
    """Take down that a breaker changed its state: in the log, the metrics and the audit log."""
    metrics.transitioned(provider, model, transition.after)
    told = msgspec.structs.asdict(transition)
    log = _LOG.info if transition.after == "closed" else _LOG.warning
    log("a circuit breaker changed its state", provider=provider, model=model, **told)
    before = {"state": told.pop("before")}
    told["state"] = told.pop("after")
    journal.note(
        f"breaker.{transition.after}",
        (provider, model),
        tenant_id="",
        target=f"{provider}/{model}",
        before=before,
        after={"provider": provider, "model": model, **told},
    )


async def _write_the_rest(journal: AuditJournal, findings: FindingsLog) -> None:
    await findings.close()
    try:
        await journal.flush()
    except Unavailable as error:
        _LOG.error("the last events are missing in the audit log", reason=error.message)


def _shedding_limits(config: Config) -> SheddingLimits:
    settings = config.shedding
    max_memory_bytes = settings.max_memory_bytes
    if max_memory_bytes is None:
        allowed = memory_limit_bytes()
        max_memory_bytes = None if allowed is None else allowed * 9 // 10
    return SheddingLimits(settings.max_lag_s, max_memory_bytes, settings.max_calls)


def _pipeline(config: Config, core: Core, journal: AuditJournal, findings: FindingsLog) -> Pipeline:
    failover = config.failover
    return Pipeline(
        gate=Gate(core.engine.database),
        ledger=core.engine.ledger,
        journal=journal,
        findings=findings,
        tiers=TenantTiers(core.engine.database, core.clock),
        max_retry_after_s=failover.max_retry_after_s,
        hedging=Hedging(nano_usd(failover.hedge_max_usd)) if failover.hedge else None,
        metrics=core.metrics,
        clock=core.clock,
        bounds=StreamBounds(
            heartbeat_s=config.limits.heartbeat_s,
            drain_timeout_s=config.limits.drain_timeout_s,
            drain_bytes=config.limits.drain_bytes,
        ),
    )


def _routes(config: Config, core: Core, models: Models, pipeline: Pipeline) -> Routes:
    limits = Limits(
        call_timeout_s=config.limits.call_timeout_s,
        max_timeout_s=config.limits.max_timeout_s,
        stream_timeout_s=config.limits.stream_timeout_s,
        default_max_output_tokens=config.limits.default_max_output_tokens,
        keep_answers_hours=config.idempotency.keep_hours,
    )
    planner = Planner(models, core.clock, limits, FeatureGuards(config.guardrails, config.features))
    return Routes(core.engine.keyring, planner, pipeline, apis=CLIENT_APIS, gemini=GEMINI_VERBS)


def configured_prices(config: Config) -> dict[str, ConfiguredPrice]:
    """Return the prices that the configuration itself gives, by model."""
    return {
        name: ConfiguredPrice(**msgspec.structs.asdict(settings.price))
        for name, settings in config.models.items()
        if settings.price is not None
    }
