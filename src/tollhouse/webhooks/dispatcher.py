"""Sending what is due, in however many processes.

Events become deliveries in their order, each once, by whoever holds the cursor. A delivery is tried by whoever claims
it; one whose process dies is due again once its claim runs out. No endpoint holds others up: each has a few places of
its own, and those that fail share a part of all places.
"""

import asyncio
import random
from collections import Counter
from functools import partial

import sqlalchemy as sa
import structlog
from cryptography.exceptions import InvalidTag

from tollhouse.config.events import Webhooks
from tollhouse.errors import Unavailable
from tollhouse.events import store as events
from tollhouse.events.cloudevents import cloud_event
from tollhouse.events.model import EVERYTHING, Event
from tollhouse.events.order import place_all
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.ids import new_id
from tollhouse.kit.sealing import Vault
from tollhouse.kit.waiting import is_set_within
from tollhouse.storage.database import Database
from tollhouse.webhooks import store
from tollhouse.webhooks.model import RETRY_AFTER_S, Claimed, Endpoint, NewDelivery, Result
from tollhouse.webhooks.sending import Sender
from tollhouse.webhooks.signing import new_secret, signed_headers

_EVENTS_AT_ONCE = 500
# Of all places, those that endpoints may have which have failed of late.
_SHARE_OF_FAILING = 0.5
# A claim outlasts a try by this much: for the write of its result, and for clocks that differ.
_CLAIM_MARGIN_S = 60
_AGAIN_S = 1.0
_MOST_RETRY_AFTER_S = 86_400
_LOG = structlog.get_logger("tollhouse.webhooks")


class Dispatcher:
    """Gives events to endpoints, and sends them.

    Args:
        gives_places: whether events get their places from readers, as where several connections write them.

    Attributes:
        tries: how many were made, by what came of them.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sender: Sender,
        vault: Vault,
        settings: Webhooks,
        *,
        gives_places: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._vault = vault
        self._settings = settings
        self._gives_places = gives_places
        self._owner = new_id("own", clock.now_ms())
        self._running: dict[asyncio.Task[None], tuple[str, bool]] = {}
        self._is_free = asyncio.Event()
        self.tries: Counter[str] = Counter(delivered=0, failed=0, dead=0)

    @property
    def under_way(self) -> int:
        return len(self._running)

    async def keep_delivering(self) -> None:
        """Deliver until cancelled; ``finish`` then lets the tries end that are under way."""
        while True:
            try:
                work = await self._look()
                are_more_events = work.has_events and await self.give_out()
                # What was given out just now is due too.
                is_more_due = (work.has_events or work.is_any_due) and await self.send_due()
            except Unavailable as error:
                _LOG.warning("webhooks are sent later", reason=error.message)
                await asyncio.sleep(_AGAIN_S)
                continue
            if not are_more_events and not is_more_due:
                await self._pause()

    async def finish(self) -> None:
        """Let the tries under way end; those that do not in time are made again, once their claims run out."""
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=self._settings.timeout_s + _AGAIN_S)
            for task in left:
                task.cancel()

    async def _pause(self) -> None:
        """Wait until it is time to look again, or a place is free that somebody may be waiting for."""
        self._is_free.clear()
        await is_set_within(self._is_free, self._settings.poll_s)

    async def _look(self) -> store.Work:
        """Return what there is to do; an idle dispatcher does nothing else. Raises Unavailable."""
        now = utc_text(self._clock.now_ms())
        return await self._database.read(partial(store.look, now=now))

    # From events to deliveries.

    async def give_out(self) -> bool:
        """Make deliveries of events that have come; return whether there may be more. Raises Unavailable."""
        if self._gives_places:
            await place_all(self._database)
        return await self._database.write(self._give_out)

    def _give_out(self, connection: sa.Connection) -> bool:
        cursor = store.lock_cursor(connection)
        if cursor is None:
            return False
        found = events.following(connection, EVERYTHING, after=cursor, limit=_EVENTS_AT_ONCE)
        if not found:
            return False
        endpoints = store.endpoints(connection)
        made = [each for event in found for each in self._deliveries(connection, event, endpoints)]
        store.add_deliveries(connection, made)
        store.move_cursor(connection, found[-1].position)
        return len(found) == _EVENTS_AT_ONCE

    def _deliveries(self, connection: sa.Connection, event: Event, endpoints: list[Endpoint]) -> list[NewDelivery]:
        targets = [(endpoint, "") for endpoint in endpoints if endpoint.takes(event)]
        if event.webhook_url:
            targets.append((self._signer(connection, event.tenant_id, endpoints), event.webhook_url))
        now_ms = self._clock.now_ms()
        return [new_delivery(endpoint, event, url, now_ms) for endpoint, url in targets]

    def _signer(self, connection: sa.Connection, tenant_id: str, endpoints: list[Endpoint]) -> Endpoint:
        """Return the endpoint that signs what goes to URLs that a tenant's calls name; made where there is none."""
        for endpoint in endpoints:
            if endpoint.tenant_id == tenant_id and not endpoint.url:
                return endpoint
        made = new_endpoint(self._vault, self._clock.now_ms(), tenant_id, "", new_secret())
        store.add_endpoint(connection, made)
        endpoints.append(made)
        return made

    # Tries.

    async def send_due(self) -> bool:
        """Begin to try what is due, as far as there is room; return whether there may be more. Raises Unavailable."""
        free = self._settings.max_concurrent - len(self._running)
        if free <= 0:
            return False
        now_ms = self._clock.now_ms()
        now = utc_text(now_ms)
        found = await self._database.read(partial(store.due, now=now, of_each=self._settings.max_per_endpoint))
        chosen = self._choose(found, free)
        if not chosen:
            return False
        until = utc_text(now_ms + round((self._settings.timeout_s + _CLAIM_MARGIN_S) * 1000))
        claimed = await self._database.write(
            partial(store.claim, ids=list(chosen), now=now, until=until, owner=self._owner)
        )
        for each in claimed:
            task = asyncio.create_task(self._try(each))
            self._running[task] = (each.endpoint_id, chosen[each.delivery_id])
            task.add_done_callback(self._ended)
        return len(claimed) > 0

    def _choose(self, found: list[tuple[str, str, bool]], free: int) -> dict[str, bool]:
        """Return which of the due deliveries have room, and whether their endpoint has failed of late."""
        taken = Counter(endpoint_id for endpoint_id, _ in self._running.values())
        failing = sum(is_failing for _, is_failing in self._running.values())
        most_failing = max(1, int(self._settings.max_concurrent * _SHARE_OF_FAILING))
        chosen: dict[str, bool] = {}
        for delivery_id, endpoint_id, is_failing in sorted(found, key=lambda each: each[2]):
            if len(chosen) >= free:
                break
            # One that fails is asked by one delivery at a time, until it answers again.
            most = 1 if is_failing else self._settings.max_per_endpoint
            if taken[endpoint_id] >= most or (is_failing and failing >= most_failing):
                continue
            chosen[delivery_id] = is_failing
            taken[endpoint_id] += 1
            failing += is_failing
        return chosen

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.pop(task, None)
        self._is_free.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a webhook's try ended on a defect", exc_info=error)

    async def _try(self, claimed: Claimed) -> None:
        endpoint = await self._database.read(partial(store.endpoint_as_it_is, endpoint_id=claimed.endpoint_id))
        if endpoint is None:
            return
        now_ms = self._clock.now_ms()
        body = claimed.payload.encode()
        try:
            secrets = self._secrets(endpoint, utc_text(now_ms))
        except InvalidTag:
            result = Result(None, "its secret was sealed under another pepper: rotate it, and tell the receiver")
        else:
            headers = signed_headers(secrets, claimed.event_id, now_ms // 1000, body)
            result = await self._sender.send(claimed.url or endpoint.url, headers, body)
        outcome = "delivered" if result.is_delivered else "dead" if self._is_last(claimed.attempt, result) else "failed"
        self.tries[outcome] += 1
        is_written = False
        while not is_written:
            try:
                is_written = await self._database.write(partial(self._write, claimed=claimed, result=result))
            except Unavailable as error:
                # What was received must not be sent again for want of a note of it, as long as this can be helped.
                _LOG.warning("the result of a webhook is written later", reason=error.message)
                await asyncio.sleep(_AGAIN_S)

    def _secrets(self, endpoint: Endpoint, now: str) -> list[bytes]:
        secrets = [self._vault.open(endpoint.sealed_secret, endpoint.endpoint_id)]
        is_both = endpoint.previous_until is not None and now < endpoint.previous_until
        if endpoint.sealed_previous is not None and is_both:
            secrets.append(self._vault.open(endpoint.sealed_previous, endpoint.endpoint_id))
        return secrets

    def _write(self, connection: sa.Connection, claimed: Claimed, result: Result) -> bool:
        now_ms = self._clock.now_ms()
        now = utc_text(now_ms)
        next_at = None if result.is_delivered else self._next_at(claimed.attempt, result, now_ms)
        if not store.end(connection, claimed, self._owner, result, now=now, next_at=next_at):
            return True
        store.note_outcome(connection, claimed.endpoint_id, is_delivered=result.is_delivered)
        if result.is_refused_for_good and not claimed.url:
            store.switch_off(connection, claimed.endpoint_id, "it answered 410 Gone", now)
        return True

    @staticmethod
    def _is_last(attempt: int, result: Result) -> bool:
        return result.is_refused_for_good or attempt > len(RETRY_AFTER_S)

    @staticmethod
    def _next_at(attempt: int, result: Result, now_ms: int) -> str | None:
        """Return when a failed delivery is tried again; None where it has been for long enough."""
        if Dispatcher._is_last(attempt, result):
            return None
        # Spread, so that what failed together does not come back together.
        pause_s = RETRY_AFTER_S[attempt - 1] * random.uniform(0.9, 1.1)  # noqa: S311 - it guards nothing
        if result.retry_after_s is not None:
            pause_s = max(pause_s, min(result.retry_after_s, _MOST_RETRY_AFTER_S))
        return utc_text(now_ms + round(pause_s * 1000))


def new_delivery(endpoint: Endpoint, event: Event, url: str, now_ms: int) -> NewDelivery:
    """Return an event on its way to an endpoint, or to a ``url`` that a call named, due at once."""
    return NewDelivery(
        delivery_id=new_id("whd", now_ms),
        endpoint_id=endpoint.endpoint_id,
        url=url,
        event_id=event.event_id,
        event_type=event.type,
        tenant_id=event.tenant_id,
        payload=cloud_event(event).decode(),
        created_at=utc_text(now_ms),
        next_at=utc_text(now_ms),
    )


def new_endpoint(
    vault: Vault,
    now_ms: int,
    tenant_id: str,
    url: str,
    secret: bytes,
    *,
    types: tuple[str, ...] | None = None,
    from_position: int = 0,
) -> Endpoint:
    """Return a new endpoint, its secret sealed."""
    endpoint_id = new_id("whe", now_ms)
    now = utc_text(now_ms)
    return Endpoint(
        endpoint_id=endpoint_id,
        tenant_id=tenant_id,
        url=url,
        types=types,
        sealed_secret=vault.seal(secret, endpoint_id),
        sealed_previous=None,
        previous_until=None,
        is_enabled=True,
        off_reason="",
        failures=0,
        from_position=from_position,
        created_at=now,
        updated_at=now,
    )
