"""Events as CloudEvents 1.0 in JSON (https://github.com/cloudevents/spec)."""

from functools import lru_cache

import msgspec

from tollhouse.events.model import Event

SOURCE = "/tollhouse"
CONTENT_TYPE = "application/cloudevents+json"
# Zeros in front, as the extension "sequence" asks for an order by text.
_SEQUENCE_DIGITS = 20


class _CloudEvent(msgspec.Struct, frozen=True):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    sequence: str
    datacontenttype: str
    data: msgspec.Raw
    tenantid: str | msgspec.UnsetType = msgspec.UNSET
    userid: str | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=1024)
def cloud_event(event: Event) -> bytes:
    """Return an event as CloudEvents' JSON; encoded once for all who read it."""
    return _encode(
        _CloudEvent(
            "1.0",
            event.event_id,
            SOURCE,
            event.type,
            event.subject,
            event.created_at,
            f"{event.position:0{_SEQUENCE_DIGITS}}",
            "application/json",
            msgspec.Raw(event.data.encode()),
            event.tenant_id or msgspec.UNSET,
            event.user_id or msgspec.UNSET,
        )
    )
