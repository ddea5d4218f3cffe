"""Writing events, in the transaction of what they tell of: both are committed, or neither is."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.events.model import MAX_DATA_BYTES, NewEvent
from tollhouse.kit.clock import utc_text
from tollhouse.kit.ids import new_id
from tollhouse.storage.event_schema import ai_event_head, ai_events


def append(connection: sa.Connection, event: NewEvent) -> None:
    """Write an event; it is told to readers once the connection's transaction is committed.

    Raises:
        ValueError: its data is too large to be an event's.
    """
    append_all(connection, [event])


def append_all(connection: sa.Connection, events: Iterable[NewEvent]) -> None:
    """Write several events, in their order; raises as ``append``."""
    rows = [_row(event) for event in events]
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        # Nobody else writes meanwhile, so that the order of writing is the order of commits.
        last = _take_positions(connection, len(rows))
        for position, row in enumerate(rows, last - len(rows) + 1):
            row["position"] = position
    connection.execute(sa.insert(ai_events), rows)


def _row(event: NewEvent) -> dict[str, Any]:
    data = msgspec.json.encode(event.data)
    if len(data) > MAX_DATA_BYTES:
        raise ValueError(f"{event.type} of {event.subject}: {len(data)} bytes of data, at most {MAX_DATA_BYTES}")
    return {
        "position": None,
        "event_id": new_id("evt", event.at_ms),
        "type": event.type,
        "tenant_id": event.tenant_id,
        "user_id": event.user_id,
        "subject": event.subject,
        "data": data.decode(),
        "created_at": utc_text(event.at_ms),
        "webhook_url": event.webhook_url,
    }


def _take_positions(connection: sa.Connection, count: int) -> int:
    """Take the next positions of an embedded database; return the last of them."""
    from sqlalchemy.dialects.sqlite import insert

    first = insert(ai_event_head).values(id=1, last_position=count, gone_position=0)
    taken = first.on_conflict_do_update(
        index_elements=["id"], set_={"last_position": ai_event_head.c.last_position + count}
    ).returning(ai_event_head.c.last_position)
    return int(connection.execute(taken).scalar_one())
