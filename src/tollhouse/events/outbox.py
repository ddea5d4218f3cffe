"""Writing events, in the transaction of what they tell of: both are committed, or neither is."""

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.events import sqlite
from tollhouse.events.model import MAX_DATA_BYTES, NewEvent
from tollhouse.kit.clock import utc_text
from tollhouse.kit.ids import new_id
from tollhouse.storage.event_schema import ai_events

# Amounts of money are JSON numbers, exact to the last digit.
_encode = msgspec.json.Encoder(decimal_format="number").encode


def append(connection: sa.Connection, event: NewEvent) -> None:
    """Write an event; it is told to readers once the connection's transaction is committed."""
    append_all(connection, [event])


def append_all(connection: sa.Connection, events: Iterable[NewEvent]) -> None:
    """Write several events, in their order."""
    rows = [row(event) for event in events]
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        sqlite.insert(driver, rows)
    else:
        connection.execute(sa.insert(ai_events), rows)


def row(event: NewEvent) -> dict[str, Any]:
    """Return an event as a row of ``ai_events``, but for its place.

    Data over ``MAX_DATA_BYTES`` is left out, and the event says so: what it tells of must not be undone for its sake.
    """
    data = _encode(event.data)
    if len(data) > MAX_DATA_BYTES:
        data = _encode({"is_omitted": True, "bytes": len(data), "bytes_max": MAX_DATA_BYTES})
    return {
        "event_id": new_id("evt", event.at_ms),
        "type": event.type,
        "tenant_id": event.tenant_id,
        "user_id": event.user_id,
        "subject": event.subject,
        "data": data.decode(),
        "created_at": utc_text(event.at_ms),
        "webhook_url": event.webhook_url,
    }
