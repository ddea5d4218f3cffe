"""What the API process does beside its calls: writing what could not be written, and forgetting what has expired."""

import asyncio

import structlog

from tollhouse.errors import Unavailable
from tollhouse.idempotency import store as idempotency
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.service import Ledger
from tollhouse.storage.database import Database

_FORGET_EVERY_S = 60.0
_FORGET_AT_ONCE = 1000
_LOG = structlog.get_logger("tollhouse.housekeeping")


async def keep_house(ledger: Ledger, database: Database, clock: Clock) -> None:
    """Run until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ledger.keep_writing())
        tasks.create_task(_forget_expired_answers(database, clock))


async def _forget_expired_answers(database: Database, clock: Clock) -> None:
    while True:
        await asyncio.sleep(_FORGET_EVERY_S)
        try:
            await forget_expired_answers(database, clock)
        except Unavailable as error:
            _LOG.warning("expired answers are forgotten later", reason=error.message)


async def forget_expired_answers(database: Database, clock: Clock) -> int:
    """Delete the answers whose time is over, a bounded number in each transaction; return how many."""
    now = utc_text(clock.now_ms())
    forgotten = 0
    while deleted := await database.write(
        lambda connection: idempotency.forget_expired(connection, now, _FORGET_AT_ONCE)
    ):
        forgotten += deleted
    return forgotten
