"""Events, before and after they have their place in the order, and who reads which."""

from collections.abc import Mapping

import msgspec

MAX_DATA_BYTES = 16 * 1024


class NewEvent(msgspec.Struct, frozen=True):
    """Something that happens in a transaction, and is known of once that is committed.

    Attributes:
        type: what happened, as CloudEvents' ``type``: ``ai.job.completed``.
        tenant_id: whom it concerns; "" is for super-admins alone.
        user_id: whom of the tenant, or "" for nobody in particular.
        subject: what it happened to, such as a job's id.
        data: what is told of it, as JSON can tell it; at most ``MAX_DATA_BYTES``, and never a prompt, answer or secret.
        at_ms: when it happened, in milliseconds since the Unix epoch, from the injected clock.
        webhook_url: where this one event is to be sent besides, or "".
    """

    type: str
    tenant_id: str
    user_id: str
    subject: str
    data: Mapping[str, object]
    at_ms: int
    webhook_url: str = ""


class Event(msgspec.Struct, frozen=True):
    """An event in its place.

    Attributes:
        position: its place in the order of all events, from 1; readers remember it.
        event_id: its own, as CloudEvents' ``id``.
        data: the JSON object, as it is stored.
        created_at: ISO 8601 in UTC.
        webhook_url: where this one event is to be sent besides, or "".
    """

    position: int
    event_id: str
    type: str
    tenant_id: str
    user_id: str
    subject: str
    data: str
    created_at: str
    webhook_url: str = ""


class Head(msgspec.Struct, frozen=True):
    """How far the order goes.

    Attributes:
        last_position: the newest event's, or 0.
        gone_position: the last that was deleted, and all before it; or 0.
    """

    last_position: int = 0
    gone_position: int = 0


class Selection(msgspec.Struct, frozen=True):
    """Which events a reader gets.

    Attributes:
        tenants: whose; None for those of all tenants.
        user_id: of which user, and of no other; None for all, and for what concerns no single user.
        types: of which types; None for all.
        has_untenanted: whether also those that concern no tenant, which are an operator's.
    """

    tenants: frozenset[str] | None = None
    user_id: str | None = None
    types: frozenset[str] | None = None
    has_untenanted: bool = False

    def takes(self, event: Event) -> bool:
        """Whether an event is among them."""
        if self.tenants is None:
            if not event.tenant_id and not self.has_untenanted:
                return False
        elif event.tenant_id not in self.tenants:
            return False
        if self.user_id is not None and event.user_id != self.user_id:
            return False
        return self.types is None or event.type in self.types


EVERYTHING = Selection(has_untenanted=True)
"""What those read who pass all events on."""
