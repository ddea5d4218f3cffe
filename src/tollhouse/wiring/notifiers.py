"""The process put together that does nothing but tell events and send webhooks."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from tollhouse.apps.api import AsgiApp
from tollhouse.apps.audiences import for_followers_only
from tollhouse.apps.events import telling_events
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.models import Models
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError
from tollhouse.kit.clock import Clock
from tollhouse.pricing.book import PriceBook
from tollhouse.wiring.control import assemble_control_plane, compiled_prices, make_reachability, make_reconciliation
from tollhouse.wiring.core import open_core
from tollhouse.wiring.events import event_duties, make_events
from tollhouse.wiring.workers import make_jobs


class Notifier(msgspec.Struct, frozen=True):
    """The assembled process that tells events.

    Attributes:
        end_streams: ends what clients follow for as long as they like; the process is to stop.
    """

    app: AsgiApp
    end_streams: Callable[[], None]


@asynccontextmanager
async def open_notifier(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator[Notifier]:
    """Assemble the process that does nothing but tell events and send webhooks; raises StartError."""
    if config.database.is_embedded:
        raise StartError(
            "[database] url: an embedded database has one process, whose `tollhouse serve` tells events itself; "
            "expected postgresql://user:password@host:5432/name"
        )
    async with open_core(config, secrets, clock, serves=False) as core, AsyncExitStack() as stack:
        events = make_events(config, core)
        duties = (*core.engine.duties, *event_duties(config, core, events))
        stack.push_async_callback(events.dispatcher.finish)
        stack.enter_context(core.duties.keeping(duties))
        listing = ModelListing(Models({}, {}, PriceBook({}, {}, clock)), core.engine.database)
        reconciliation = make_reconciliation(config, core, lambda: compiled_prices(config, clock))
        reachability = make_reachability({}, clock, 1.0)
        jobs = make_jobs(config, core.engine, clock)
        app = assemble_control_plane(core, jobs, events, reconciliation, listing, reachability)
        app = for_followers_only(telling_events(app, events.notifications, clock), clock)
        yield Notifier(app, events.notifications.feed.close)
