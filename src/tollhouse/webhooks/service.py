"""What operators do about webhooks. Each change is one transaction, with its entry in the audit log."""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry
from tollhouse.config.events import Webhooks
from tollhouse.errors import InvalidRequest, NotFound
from tollhouse.events import store as events
from tollhouse.events.model import Event
from tollhouse.events.order import place_all
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.ids import id_text, id_value, new_id
from tollhouse.kit.sealing import Vault
from tollhouse.storage.database import Database
from tollhouse.webhooks import store
from tollhouse.webhooks.body import (
    DeliveryPage,
    DeliveryRecord,
    NewWebhook,
    Revived,
    Webhook,
    WebhookChanges,
    WebhookList,
    WebhookRequest,
)
from tollhouse.webhooks.destination import Refused, refuse_at_once
from tollhouse.webhooks.dispatcher import new_delivery, new_endpoint
from tollhouse.webhooks.model import Endpoint
from tollhouse.webhooks.signing import new_secret, secret_text

TEST_TYPE = "ai.webhook.test"
_AT_ONCE = 1000
_MS_PER_HOUR = 3_600_000
# An endpoint that fails is tried by one delivery at a time, so that more may come than are ever tried.
_OVERDUE_HOURS = 72
_OVERDUE = "its endpoint failed or was switched off for three days, and its turn to be tried did not come"


class WebhookAdministration:
    """Endpoints, their secrets, and what was or is sent to them.

    Every method that changes something takes the ``actor``: the id of the key that asks for it.

    Args:
        gives_places: whether events get their places from readers, as where several connections write them.
    """

    def __init__(
        self, database: Database, clock: Clock, vault: Vault, settings: Webhooks, *, gives_places: bool
    ) -> None:
        self._database = database
        self._clock = clock
        self._vault = vault
        self._settings = settings
        self._gives_places = gives_places
        self._networks = settings.networks

    # Endpoints.

    async def create(self, wanted: WebhookRequest, actor: str) -> NewWebhook:
        """Make an endpoint, which gets what happens from now on; raises InvalidRequest."""
        tenant_id = "" if wanted.tenant_id is None else id_text(wanted.tenant_id)
        url = "" if wanted.url is None else self._checked(wanted.url)
        types = None if wanted.types is None else tuple(wanted.types)
        secret = new_secret()

        def work(connection: sa.Connection) -> Endpoint:
            if not url and any(not each.url for each in store.endpoints(connection, tenant_id)):
                raise InvalidRequest("url: this tenant has an endpoint without one already; rotate its secret instead")
            position = events.head(connection).last_position
            made = new_endpoint(
                self._vault, self._clock.now_ms(), tenant_id, url, secret, types=types, from_position=position
            )
            store.add_endpoint(connection, made)
            self._record(connection, actor, "webhook.created", made, None, _state(made))
            return made

        if self._gives_places:
            # What has happened before would else come after it in the order.
            await place_all(self._database)
        return NewWebhook(_shown(await self._database.write(work)), secret_text(secret))

    async def endpoints(self, tenant_id: str | None) -> WebhookList:
        """List the endpoints, all or a tenant's."""
        found = await self._database.read(lambda connection: store.endpoints(connection, tenant_id))
        return WebhookList([_shown(each) for each in found])

    async def endpoint(self, endpoint_id: str) -> Webhook:
        """Return an endpoint; raises NotFound."""
        found = await self._database.read(lambda connection: store.endpoint_as_it_is(connection, endpoint_id))
        if found is None:
            raise _no_endpoint(endpoint_id)
        return _shown(found)

    async def change(self, endpoint_id: str, changes: WebhookChanges, actor: str) -> Webhook:
        """Change what is given; raises NotFound, InvalidRequest."""
        values: dict[str, Any] = {}
        if changes.url is not UNSET:
            values["url"] = self._checked(changes.url)
        if changes.types is not UNSET:
            values["types"] = None if changes.types is None else tuple(changes.types)
        if changes.is_enabled is not UNSET:
            values["is_enabled"] = changes.is_enabled
            if changes.is_enabled:
                values |= {"off_reason": "", "failures": 0}

        def change(endpoint: Endpoint) -> Endpoint:
            if not endpoint.url and "url" in values:
                raise InvalidRequest("url: this endpoint signs what goes to URLs that calls name, and has none itself")
            return msgspec.structs.replace(endpoint, **values)

        return _shown(await self._change(endpoint_id, "webhook.updated", actor, change))

    async def rotate(self, endpoint_id: str, actor: str) -> NewWebhook:
        """Give an endpoint a new secret; the one before signs too, for as long as is configured. Raises NotFound."""
        secret = new_secret()
        until = utc_text(self._clock.now_ms() + self._settings.rotation_hours * _MS_PER_HOUR)

        def change(endpoint: Endpoint) -> Endpoint:
            return msgspec.structs.replace(
                endpoint,
                sealed_secret=self._vault.seal(secret, endpoint_id),
                sealed_previous=endpoint.sealed_secret,
                previous_until=until,
            )

        changed = await self._change(endpoint_id, "webhook.secret_rotated", actor, change)
        return NewWebhook(_shown(changed), secret_text(secret))

    async def delete(self, endpoint_id: str, actor: str) -> None:
        """Delete an endpoint with all that was to be sent there; raises NotFound."""

        def work(connection: sa.Connection) -> None:
            endpoint = store.endpoint_to_change(connection, endpoint_id)
            if endpoint is None:
                raise _no_endpoint(endpoint_id)
            store.remove_endpoint(connection, endpoint_id)
            self._record(connection, actor, "webhook.deleted", endpoint, _state(endpoint), None)

        await self._database.write(work)

    async def send_test(self, endpoint_id: str, actor: str) -> DeliveryRecord:
        """Send an event of its own to an endpoint, as all others are: signed, and again until it arrives.

        Raises:
            NotFound: there is no such endpoint.
            InvalidRequest: nothing is sent there just now, or ever.
        """

        def work(connection: sa.Connection) -> DeliveryRecord:
            endpoint = store.endpoint_to_change(connection, endpoint_id)
            if endpoint is None:
                raise _no_endpoint(endpoint_id)
            if not endpoint.url:
                raise InvalidRequest("this endpoint signs what goes to URLs that calls name, and has none itself")
            if not endpoint.is_enabled:
                raise InvalidRequest("this endpoint is switched off; PATCH with is_enabled true switches it on")
            now_ms = self._clock.now_ms()
            made = new_delivery(endpoint, _test_event(endpoint, now_ms), "", now_ms)
            store.add_deliveries(connection, [made])
            self._record(connection, actor, "webhook.tested", endpoint, None, {"event_id": made.event_id})
            row = store.delivery_as_it_is(connection, made.delivery_id)
            assert row is not None, "it was just written"
            return _delivery(row)

        return await self._database.write(work)

    async def _change(
        self, endpoint_id: str, action: str, actor: str, change: Callable[[Endpoint], Endpoint]
    ) -> Endpoint:
        def work(connection: sa.Connection) -> Endpoint:
            before = store.endpoint_to_change(connection, endpoint_id)
            if before is None:
                raise _no_endpoint(endpoint_id)
            after = msgspec.structs.replace(change(before), updated_at=utc_text(self._clock.now_ms()))
            store.save_endpoint(connection, after)
            self._record(connection, actor, action, after, _state(before), _state(after))
            return after

        return await self._database.write(work)

    # Deliveries.

    async def deliveries(
        self, *, state: str | None, endpoint_id: str | None, before: str | None, limit: int
    ) -> DeliveryPage:
        """Return deliveries, the newest first."""
        rows = await self._database.read(
            lambda connection: store.page(
                connection, state=state, endpoint_id=endpoint_id, before=before, limit=limit + 1
            )
        )
        shown = [_delivery(row) for row in rows[:limit]]
        return DeliveryPage(shown, shown[-1].delivery_id if len(rows) > limit else None)

    async def delivery(self, delivery_id: str) -> DeliveryRecord:
        """Return a delivery; raises NotFound."""
        row = await self._database.read(lambda connection: store.delivery_as_it_is(connection, delivery_id))
        if row is None:
            raise _no_delivery(delivery_id)
        return _delivery(row)

    async def retry(self, delivery_id: str, actor: str) -> Revived:
        """Have a delivery tried anew, which has ended or waits; raises NotFound."""

        def work(connection: sa.Connection) -> int:
            row = store.delivery_to_change(connection, delivery_id)
            if row is None:
                raise _no_delivery(delivery_id)
            self._record_delivery(connection, actor, "webhook.delivery_retried", row)
            return store.revive(connection, self._now(), delivery_id=delivery_id)

        return Revived(await self._database.write(work))

    async def retry_dead(self, endpoint_id: str, actor: str) -> Revived:
        """Have all dead deliveries of an endpoint tried anew; raises NotFound."""

        def work(connection: sa.Connection) -> int:
            endpoint = store.endpoint_to_change(connection, endpoint_id)
            if endpoint is None:
                raise _no_endpoint(endpoint_id)
            revived = store.revive(connection, self._now(), endpoint_id=endpoint_id)
            self._record(connection, actor, "webhook.dead_retried", endpoint, None, {"deliveries": revived})
            return revived

        return Revived(await self._database.write(work))

    async def drop(self, delivery_id: str, actor: str) -> None:
        """Delete a delivery, which is then not tried any more; raises NotFound."""

        def work(connection: sa.Connection) -> None:
            row = store.delivery_to_change(connection, delivery_id)
            if row is None:
                raise _no_delivery(delivery_id)
            store.drop(connection, delivery_id)
            self._record_delivery(connection, actor, "webhook.delivery_dropped", row)

        await self._database.write(work)

    async def forget_old(self) -> int:
        """Delete deliveries that ended long enough ago, a bounded number in each transaction; return how many.

        What waits for an endpoint that does not come back is dead after some days, so that it is forgotten in time too.
        """
        now_ms = self._clock.now_ms()
        overdue, now = utc_text(now_ms - _OVERDUE_HOURS * _MS_PER_HOUR), utc_text(now_ms)
        while await self._database.write(
            lambda connection: store.give_up(connection, before=overdue, now=now, problem=_OVERDUE, at_most=_AT_ONCE)
        ):
            pass
        before = utc_text(self._clock.now_ms() - self._settings.keep_days * 24 * _MS_PER_HOUR)
        gone = 0
        while deleted := await self._database.write(
            lambda connection: store.forget(connection, before=before, at_most=_AT_ONCE)
        ):
            gone += deleted
        return gone

    def _checked(self, url: str) -> str:
        try:
            refuse_at_once(url, self._networks)
        except (ValueError, Refused) as error:
            raise InvalidRequest(f"url: {error}") from None
        return url

    def _now(self) -> str:
        return utc_text(self._clock.now_ms())

    def _record(
        self, connection: sa.Connection, actor: str, action: str, endpoint: Endpoint, before: Any, after: Any
    ) -> None:
        entry = AuditEntry(self._now(), actor, action, endpoint.tenant_id, endpoint.endpoint_id, before, after)
        audit.append(connection, entry)

    def _record_delivery(self, connection: sa.Connection, actor: str, action: str, row: dict[str, Any]) -> None:
        before = {name: row[name] for name in ("endpoint_id", "event_id", "state", "attempts")}
        entry = AuditEntry(self._now(), actor, action, row["tenant_id"], row["delivery_id"], before, None)
        audit.append(connection, entry)


def _test_event(endpoint: Endpoint, now_ms: int) -> Event:
    """Return an event that is told to nobody else, and so has no place among the others."""
    return Event(
        position=0,
        event_id=new_id("evt", now_ms),
        type=TEST_TYPE,
        tenant_id=endpoint.tenant_id,
        user_id="",
        subject=endpoint.endpoint_id,
        data='{"message":"This endpoint gets webhooks."}',
        created_at=utc_text(now_ms),
    )


def _no_endpoint(endpoint_id: str) -> NotFound:
    return NotFound(f"there is no webhook endpoint {endpoint_id}; GET /admin/webhooks lists them")


def _no_delivery(delivery_id: str) -> NotFound:
    return NotFound(f"there is no delivery {delivery_id}; GET /admin/webhook-deliveries lists them")


def _state(endpoint: Endpoint) -> dict[str, Any]:
    """Return what the audit log tells of an endpoint: never a secret, sealed or not."""
    # What stands behind the question mark may be a receiver's secret.
    url = endpoint.url.partition("?")[0]
    return {"url": url, "types": endpoint.types, "is_enabled": endpoint.is_enabled}


def _shown(endpoint: Endpoint) -> Webhook:
    return Webhook(
        endpoint_id=endpoint.endpoint_id,
        tenant_id=id_value(endpoint.tenant_id) if endpoint.tenant_id else None,
        url=endpoint.url or None,
        types=None if endpoint.types is None else list(endpoint.types),
        is_enabled=endpoint.is_enabled,
        off_reason=endpoint.off_reason,
        failures=endpoint.failures,
        previous_secret_until=endpoint.previous_until,
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )


def _delivery(row: dict[str, Any]) -> DeliveryRecord:
    values = {name: row[name] for name in DeliveryRecord.__struct_fields__}
    values["url"] = values["url"] or None
    values["tenant_id"] = id_value(values["tenant_id"]) if values["tenant_id"] else None
    if values["state"] != "waiting":
        values["next_at"] = None
    return DeliveryRecord(**values)
