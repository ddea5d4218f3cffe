"""The control plane put together: for processes that serve, and for commands."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec

from tollhouse.apps.api import AsgiApp
from tollhouse.apps.catalogue import compile_configured
from tollhouse.apps.control import control_plane
from tollhouse.apps.health import Health
from tollhouse.billing.service import UsageReports
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.models import Models
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError, Unavailable
from tollhouse.kit.clock import Clock, SystemClock
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.providers.transport import Upstream
from tollhouse.reconciliation.model import PriceOf
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.resilience.guards import Guards
from tollhouse.resilience.reachability import Reachability
from tollhouse.resilience.shedding import LoadShedder
from tollhouse.wiring.core import Core, open_core, operator_token
from tollhouse.wiring.events import EventParts, make_events
from tollhouse.wiring.workers import JobParts, make_jobs


@asynccontextmanager
async def open_control_plane(
    config: Config, secrets: Secrets, clock: Clock | None = None
) -> AsyncIterator[tuple[AsgiApp, str]]:
    """Assemble the control plane alone, for commands; yields it with a super-admin key. Raises StartError."""
    async with open_core(config, secrets, clock or SystemClock(), serves=False) as core:
        reconciliation = make_reconciliation(config, core, lambda: compiled_prices(config, core.clock))
        # Commands list no models.
        listing = ModelListing(Models({}, {}, PriceBook({}, {}, core.clock)), core.engine.database)
        jobs, events = make_jobs(config, core.engine, core.clock), make_events(config, core)
        reachability = make_reachability({}, core.clock, 1.0)
        app = assemble_control_plane(core, jobs, events, reconciliation, listing, reachability)
        yield app, operator_token(core)


def assemble_control_plane(
    core: Core,
    jobs: JobParts,
    events: EventParts,
    reconciliation: Reconciliation,
    listing: ModelListing,
    reachability: Reachability,
    guards: Guards | None = None,
    shedder: LoadShedder | None = None,
) -> AsgiApp:
    """Put together all but completion calls."""
    health = Health(
        database=core.engine.reserved,
        ledger=core.engine.ledger,
        metrics=core.metrics,
        clock=core.clock,
        reachability=reachability,
        guards=guards,
        shedder=shedder,
        is_in_touch=core.engine.is_in_touch,
        duties=core.duties,
    )
    return control_plane(
        administration=core.administration,
        usage=UsageReports(core.engine.database, core.clock),
        reconciliation=reconciliation,
        jobs=jobs.jobs,
        dead_letters=jobs.dead_letters,
        schedules=jobs.schedules,
        listing=listing,
        notifications=events.notifications,
        webhooks=events.webhooks,
        keyring=core.engine.keyring,
        clock=core.clock,
        metrics=core.metrics,
        health=health,
        uses=core.uses,
    )


def make_reconciliation(config: Config, core: Core, prices: Callable[[], Awaitable[PriceOf]]) -> Reconciliation:
    """Put together what compares providers' usage with the ledger, at the prices that it will ask for."""
    upstream_names: dict[str, dict[str, str]] = {name: {} for name in config.providers}
    for name, settings in config.models.items():
        upstream_names[settings.provider][name] = settings.upstream_model or name
    return Reconciliation(core.engine.database, core.clock, prices, upstream_names)


async def known_prices(prices: PriceBook) -> PriceOf:
    """Return the prices of a process that has them."""
    return prices.get


async def compiled_prices(config: Config, clock: Clock) -> PriceOf:
    """Return the prices for a command that needs them, which few do; raises Unavailable."""
    try:
        return PriceBook(configured_prices(config), (await compile_configured(config, clock)).prices, clock).get
    except StartError as error:
        raise Unavailable(str(error)) from error


def make_reachability(upstreams: Mapping[str, Upstream], clock: Clock, every_s: float) -> Reachability:
    """Put together what looks whether providers can be reached, every so many seconds."""
    return Reachability({name: upstream.probe for name, upstream in upstreams.items()}, clock, every_s)


def configured_prices(config: Config) -> dict[str, ConfiguredPrice]:
    """Return the prices that the configuration itself gives, by model."""
    return {
        name: ConfiguredPrice(**msgspec.structs.asdict(settings.price))
        for name, settings in config.models.items()
        if settings.price is not None
    }
