"""Endpoints and deliveries."""

from typing import Literal

import msgspec

from tollhouse.events.model import Event

State = Literal["waiting", "delivered", "dead"]

# How long after each failed try the next one comes, in seconds; a day in all. The first steps are short, since most
# failures are a restart's; the last ones leave an operator the time to put the endpoint right.
RETRY_AFTER_S = (5, 60, 300, 1800, 7200, 18_000, 28_800, 30_000)


class Endpoint(msgspec.Struct, frozen=True):
    """Where events are sent.

    Attributes:
        tenant_id: whose events; "" for those of all, an operator's own included.
        url: where to; "" for an endpoint that only signs what goes to URLs that calls name.
        types: which types of events; None for all.
        sealed_secret: what signs, sealed under a secret of this database.
        sealed_previous: what signs as well until ``previous_until``, while receivers change over.
        from_position: events before and at this position are not sent.
        failures: how many tries have failed in a row.
        off_reason: why it was switched off by itself, or "".
    """

    endpoint_id: str
    tenant_id: str
    url: str
    types: tuple[str, ...] | None
    sealed_secret: bytes
    sealed_previous: bytes | None
    previous_until: str | None
    is_enabled: bool
    off_reason: str
    failures: int
    from_position: int
    created_at: str
    updated_at: str

    def takes(self, event: Event) -> bool:
        """Whether an event is sent there."""
        return (
            self.is_enabled
            and self.url != ""
            and event.position > self.from_position
            and self.tenant_id in {"", event.tenant_id}
            and (self.types is None or event.type in self.types)
        )


class NewDelivery(msgspec.Struct, frozen=True):
    """An event on its way to an endpoint.

    Attributes:
        url: where to, where a call named it; "" for the endpoint's own.
        payload: the event as CloudEvents' JSON.
        next_at: when it is to be tried; ISO 8601 in UTC.
    """

    delivery_id: str
    endpoint_id: str
    url: str
    event_id: str
    event_type: str
    tenant_id: str
    payload: str
    created_at: str
    next_at: str


class Claimed(msgspec.Struct, frozen=True):
    """A delivery that this process tries now, and nobody else.

    Attributes:
        attempt: which try it is, from 1.
    """

    delivery_id: str
    endpoint_id: str
    url: str
    event_id: str
    payload: str
    attempt: int


class Result(msgspec.Struct, frozen=True):
    """What came of a try.

    Attributes:
        status: the HTTP status, or None where there was no answer.
        problem: what went wrong, in words that hold nothing of the answer's body; "" where nothing did.
        retry_after_s: how long the receiver asks to be left alone, or None.
    """

    status: int | None
    problem: str
    retry_after_s: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refused_for_good(self) -> bool:
        """410: the receiver wants nothing more (Standard Webhooks)."""
        return self.status == 410
