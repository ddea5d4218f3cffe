"""What operators send and see of webhooks."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tollhouse.kit.validation import OutsideId
from tollhouse.webhooks.destination import MAX_URL
from tollhouse.webhooks.model import State

_Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
_Types = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(min_length=1, max_length=50)]


class WebhookRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint to be made.

    Attributes:
        url: where events are sent, https; null makes one that only signs what goes to URLs that calls name.
        tenant_id: whose events; null for those of all tenants.
        types: which types of events; null for all.
    """

    url: _Url | None
    tenant_id: OutsideId | None = None
    types: _Types | None = None


class WebhookChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change of an endpoint; what is left out stays.

    Attributes:
        is_enabled: true also forgets that it failed.
    """

    url: _Url | UnsetType = UNSET
    types: _Types | UnsetType | None = UNSET
    is_enabled: bool | UnsetType = UNSET


class Webhook(msgspec.Struct, frozen=True):
    """An endpoint.

    Attributes:
        off_reason: why it was switched off by itself, or "".
        failures: how many tries have failed in a row.
        previous_secret_until: until when the secret before signs too, or null.
    """

    endpoint_id: str
    tenant_id: int | str | None
    url: str | None
    types: list[str] | None
    is_enabled: bool
    off_reason: str
    failures: int
    previous_secret_until: str | None
    created_at: str
    updated_at: str


class NewWebhook(msgspec.Struct, frozen=True):
    """An endpoint with its secret, which is shown once."""

    endpoint: Webhook
    secret: str


class WebhookList(msgspec.Struct, frozen=True):
    """Endpoints, the oldest first."""

    endpoints: list[Webhook]


class DeliveryRecord(msgspec.Struct, frozen=True):
    """An event on its way to an endpoint.

    Attributes:
        url: where to, where a call named it.
        attempts: how many times it was tried; one under way counts.
        next_at: of a waiting one, when it is tried at the earliest.
        last_status: the HTTP status of the last try, or null.
        last_problem: what went wrong with it, or "".
    """

    delivery_id: str
    endpoint_id: str
    url: str | None
    event_id: str
    event_type: str
    tenant_id: int | str | None
    state: State
    attempts: int
    next_at: str | None
    last_status: int | None
    last_problem: str
    created_at: str
    ended_at: str | None


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, the newest first; ``next_before`` is to be given as ``before`` for those that follow."""

    deliveries: list[DeliveryRecord]
    next_before: str | None


class Revived(msgspec.Struct, frozen=True):
    """How many deliveries are tried anew."""

    deliveries: int
