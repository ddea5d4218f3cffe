"""Writing events into an embedded database by its driver, which is all that the hot path has."""

import sqlite3
from collections.abc import Mapping, Sequence

_TAKE_POSITIONS = """
INSERT INTO ai_event_head (id, last_position, gone_position) VALUES (1, ?1, 0)
ON CONFLICT (id) DO UPDATE SET last_position = last_position + ?1 RETURNING last_position"""


def insert(connection: sqlite3.Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows that ``outbox.row`` made, at the next positions.

    Nobody else writes meanwhile, so that the order of writing is the order of commits.
    """
    ((last,),) = connection.execute(_TAKE_POSITIONS, (len(rows),)).fetchall()
    columns = ("position", *rows[0])
    statement = f"INSERT INTO ai_events ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - constants
    first = last - len(rows) + 1
    connection.executemany(statement, [(place, *row.values()) for place, row in enumerate(rows, first)])
