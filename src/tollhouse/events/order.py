"""Giving committed events their places, where several connections write them.

Ids are drawn when an event is written, and transactions commit in another order than they draw in: whoever read on
from the largest id seen would miss what is committed later with a smaller one. Places are therefore given to what is
committed, by one transaction at a time, and readers go by these. ADR 19 has the alternatives.

An embedded database has one writer, which gives each event its place as it is written (``outbox.append``).
"""

import sqlalchemy as sa

from tollhouse.storage.database import Database
from tollhouse.storage.event_schema import ai_event_head, ai_events

_MOST_AT_ONCE = 2000
_LOCK_HEAD = sa.select(ai_event_head.c.last_position).where(ai_event_head.c.id == 1).with_for_update(skip_locked=True)
_IS_ANY = sa.select(ai_events.c.id).where(ai_events.c.position.is_(None)).limit(1)
_MAKE_HEAD = sa.text(
    "INSERT INTO ai_event_head (id, last_position, gone_position) VALUES (1, 0, 0) ON CONFLICT DO NOTHING"
)
# By id, so that of two transactions that followed each other the first one's come first.
_PLACE = sa.text("""
UPDATE ai_events SET position = placed.position
  FROM (SELECT id, :last_position + row_number() OVER (ORDER BY id) AS position
          FROM (SELECT id FROM ai_events WHERE position IS NULL ORDER BY id LIMIT :most) unplaced) placed
 WHERE ai_events.id = placed.id""")


def has_unplaced(connection: sa.Connection) -> bool:
    """Whether there is something to place, found without a lock."""
    return connection.scalar(_IS_ANY) is not None


def place(connection: sa.Connection) -> int:
    """Give places to committed events that have none, up to a bound; return how many.

    Where another connection is at it, nothing is done. The lock goes with the transaction, so that whoever sees a place
    sees all before it.
    """
    last_position = connection.scalar(_LOCK_HEAD)
    if last_position is None:
        connection.execute(_MAKE_HEAD)
        last_position = connection.scalar(_LOCK_HEAD)
        if last_position is None:
            return 0
    # A statement of its own: it sees what was placed by whoever had the lock before.
    placed = connection.execute(_PLACE, {"last_position": last_position, "most": _MOST_AT_ONCE}).rowcount
    if placed:
        connection.execute(sa.update(ai_event_head).values(last_position=last_position + placed))
    return placed


async def place_all(database: Database) -> None:
    """Give places to all that has none, in as many transactions as it takes; raises Unavailable."""
    if await database.read(has_unplaced):
        await place_what_waits(database)


async def place_what_waits(database: Database) -> None:
    """Do as ``place_all``, where something is known to wait."""
    while await database.write(place):
        pass
