"""Deleting events once they were kept for long enough."""

from tollhouse.events import store
from tollhouse.events.order import place_all
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

_AT_ONCE = 1000
_MS_PER_DAY = 86_400_000


async def forget_old(database: Database, clock: Clock, keep_days: int, *, gives_places: bool) -> int:
    """Delete what is older than ``keep_days``, a bounded number in each transaction; return how many."""
    if gives_places:
        # Where nobody follows, nobody has given them places, and what has none is not deleted.
        await place_all(database)
    before = utc_text(clock.now_ms() - keep_days * _MS_PER_DAY)
    gone = 0
    while deleted := await database.write(lambda connection: store.forget(connection, before=before, at_most=_AT_ONCE)):
        gone += deleted
    return gone
