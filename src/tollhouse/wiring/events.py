"""Events put together: who follows them, and where they are sent as webhooks."""

from collections.abc import Awaitable
from functools import partial

import msgspec

from tollhouse.apps.duties import Duty
from tollhouse.apps.housekeeping import forget_regularly
from tollhouse.config import Config
from tollhouse.events.feed import Feed
from tollhouse.events.retention import forget_old
from tollhouse.kit.sealing import Vault
from tollhouse.notifications.service import Notifications
from tollhouse.telemetry.events import event_metrics
from tollhouse.webhooks.dispatcher import Dispatcher
from tollhouse.webhooks.sending import Sender
from tollhouse.webhooks.service import WebhookAdministration
from tollhouse.wiring.core import Core


class EventParts(msgspec.Struct, frozen=True):
    """What there is for events in a process that tells them."""

    notifications: Notifications
    webhooks: WebhookAdministration
    dispatcher: Dispatcher


def make_events(config: Config, core: Core) -> EventParts:
    """Put together what tells events and sends webhooks; nothing runs before its duties do."""
    engine, settings = core.engine, config.webhooks
    gives_places = not config.database.is_embedded
    feed = Feed(engine.database, gives_places=gives_places, poll_s=config.events.poll_s)
    vault = Vault(engine.keyring.derive(b"webhook secrets"))
    sender = Sender(core.clock, settings.networks, timeout_s=settings.timeout_s)
    return EventParts(
        Notifications(feed, engine.keyring, core.clock, config.events),
        WebhookAdministration(engine.database, core.clock, vault, settings, gives_places=gives_places),
        Dispatcher(engine.reserved, core.clock, sender, vault, settings, gives_places=gives_places),
    )


def event_duties(config: Config, core: Core, events: EventParts) -> tuple[Duty, ...]:
    """Return what a process that tells events does all the time, and show it in the metrics."""
    feed, dispatcher = events.notifications.feed, events.dispatcher
    core.metrics.add(
        lambda: event_metrics(feed.followers, events.notifications.dropped, dispatcher.tries, dispatcher.under_way)
    )
    return (
        Duty("event_feed", feed.keep_reading),
        Duty("webhooks", dispatcher.keep_delivering),
        Duty("old_events", partial(forget_regularly, "old events", partial(_forget_old_events, config, core))),
        Duty("old_webhooks", partial(forget_regularly, "old webhooks", events.webhooks.forget_old)),
    )


def _forget_old_events(config: Config, core: Core) -> Awaitable[int]:
    gives_places = not config.database.is_embedded
    return forget_old(core.engine.reserved, core.clock, config.events.keep_days, gives_places=gives_places)
