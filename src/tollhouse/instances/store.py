"""The statements of instances, on PostgreSQL."""

from typing import NamedTuple

import asyncpg

REGISTER = """
INSERT INTO ai_instances (instance_id, state, version, started_at, seen_at) VALUES ($1, 'live', $2, $3, $3)
RETURNING epoch"""

# Sees what may have changed too, so that one round trip tells all there is to know.
BEAT = """
UPDATE ai_instances SET beat = beat + 1, seen_at = $2 WHERE epoch = $1 AND state = 'live'
RETURNING (SELECT value FROM ai_settings WHERE name = 'keys_version'),
          (SELECT value FROM ai_settings WHERE name = 'functions_digest')"""

OTHERS = "SELECT epoch, beat, instance_id FROM ai_instances WHERE state = 'live' AND epoch <> $1"

STOP = "SELECT ai_stop($1::bigint, $2::text)"

DECLARE_LOST = "SELECT ai_declare_lost($1::bigint, $2::bigint, $3::text)"

FORGET = """
DELETE FROM ai_instances i WHERE i.state <> 'live' AND i.ended_at < $1
   AND NOT EXISTS (SELECT FROM ai_reservations r WHERE r.epoch = i.epoch AND r.state = 'open')"""


async def register(connection: asyncpg.Connection, instance_id: str, version: str, now: str) -> int:
    """Enter a life of an instance; return its epoch."""
    epoch: int = await connection.fetchval(REGISTER, instance_id, version, now)
    return epoch


class Seen(NamedTuple):
    """What a beat has seen: the versions of the service keys, and of the functions that the hot path calls."""

    keys_version: str | None
    functions_digest: str | None


async def beat(connection: asyncpg.Connection, epoch: int, now: str) -> Seen | None:
    """Show that an instance lives; return None when it is not known as live any more."""
    row = await connection.fetchrow(BEAT, epoch, now)
    return None if row is None else Seen(*row)


async def others(connection: asyncpg.Connection, epoch: int) -> list[tuple[int, int, str]]:
    """Return epoch, beat and id of the other instances that are known as live."""
    return [tuple(row) for row in await connection.fetch(OTHERS, epoch)]
