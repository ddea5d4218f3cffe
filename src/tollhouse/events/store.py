"""Reading events in their order, and deleting those that were kept for long enough. It runs on every engine."""

import sqlalchemy as sa

from tollhouse.events.model import Event, Head, Selection
from tollhouse.storage.event_schema import ai_event_head, ai_events

_COLUMNS = [ai_events.c[name] for name in Event.__struct_fields__]


def head(connection: sa.Connection) -> Head:
    """Return how far the order goes."""
    row = connection.execute(sa.select(ai_event_head.c.last_position, ai_event_head.c.gone_position)).one_or_none()
    return Head() if row is None else Head(*row)


def following(
    connection: sa.Connection, selection: Selection, *, after: int, through: int | None = None, limit: int
) -> list[Event]:
    """Return up to ``limit`` events in their order.

    Args:
        after: the position after which they begin.
        through: the last position to look at; None for the end.
    """
    wanted = sa.select(*_COLUMNS).where(ai_events.c.position > after)
    if through is not None:
        wanted = wanted.where(ai_events.c.position <= through)
    if selection.tenants is not None:
        # By a single value the index gives them in their order.
        tenants = sorted(selection.tenants)
        is_theirs = ai_events.c.tenant_id == tenants[0] if len(tenants) == 1 else ai_events.c.tenant_id.in_(tenants)
        wanted = wanted.where(is_theirs)
    elif not selection.has_untenanted:
        wanted = wanted.where(ai_events.c.tenant_id != "")
    if selection.user_id is not None:
        wanted = wanted.where(ai_events.c.user_id == selection.user_id)
    if selection.types is not None:
        wanted = wanted.where(ai_events.c.type.in_(sorted(selection.types)))
    return [Event(*row) for row in connection.execute(wanted.order_by(ai_events.c.position).limit(limit))]


def forget(connection: sa.Connection, *, before: str, at_most: int) -> int:
    """Delete the oldest events, in their order, as long as they are from before a time; return how many.

    Args:
        before: ISO 8601 in UTC.
    """
    oldest = (
        sa.select(ai_events.c.position, ai_events.c.created_at)
        .where(ai_events.c.position.is_not(None))
        .order_by(ai_events.c.position)
        .limit(at_most)
    )
    gone = 0
    for position, created_at in connection.execute(oldest):
        if created_at >= before:
            break
        gone = position
    if not gone:
        return 0
    deleted = connection.execute(sa.delete(ai_events).where(ai_events.c.position <= gone)).rowcount
    connection.execute(sa.update(ai_event_head).where(ai_event_head.c.gone_position < gone).values(gone_position=gone))
    return deleted
