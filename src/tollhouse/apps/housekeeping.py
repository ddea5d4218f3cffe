"""What the API process does beside its calls: writing what could not be written, and ending what has expired."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from tollhouse.apps.duties import Duty
from tollhouse.errors import Unavailable
from tollhouse.idempotency import store as idempotency
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.service import Ledger
from tollhouse.storage.database import Database

_FORGET_EVERY_S = 60.0
_FORGET_AT_ONCE = 1000
_EXPIRE_EVERY_S = 60.0
_LOG = structlog.get_logger("tollhouse.housekeeping")


def house_duties(
    ledger: Ledger, database: Database, clock: Clock, expire_unknown: Callable[[], Awaitable[int]]
) -> tuple[Duty, ...]:
    """Return what is to be done for as long as calls are taken.

    Args:
        expire_unknown: frees the calls of unknown outcome that were held for long enough.
    """
    return (
        Duty("unwritten_endings", ledger.keep_writing),
        Duty("expired_answers", partial(_forget_expired_answers, database, clock)),
        Duty("unknown_outcomes", partial(_expire_regularly, expire_unknown)),
    )


async def _forget_expired_answers(database: Database, clock: Clock) -> None:
    while True:
        await asyncio.sleep(_FORGET_EVERY_S)
        try:
            await forget_expired_answers(database, clock)
        except Unavailable as error:
            _LOG.warning("expired answers are forgotten later", reason=error.message)


async def _expire_regularly(expire_unknown: Callable[[], Awaitable[int]]) -> None:
    while True:
        try:
            await expire_unknown()
        except Unavailable as error:
            _LOG.warning("calls of unknown outcome are freed later", reason=error.message)
        # After the first run: a service that is started anew each day has to free them too.
        await asyncio.sleep(_EXPIRE_EVERY_S)


async def forget_regularly(what: str, forget: Callable[[], Awaitable[int]]) -> None:
    """Delete what was kept for long enough, until cancelled; ``what`` names it in the log."""
    while True:
        try:
            await forget()
        except Unavailable as error:
            _LOG.warning(f"{what} are deleted later", reason=error.message)
        await asyncio.sleep(_FORGET_EVERY_S)


async def forget_expired_answers(database: Database, clock: Clock) -> int:
    """Delete the answers whose time is over, a bounded number in each transaction; return how many."""
    now = utc_text(clock.now_ms())
    forgotten = 0
    while deleted := await database.write(
        lambda connection: idempotency.forget_expired(connection, now, _FORGET_AT_ONCE)
    ):
        forgotten += deleted
    return forgotten
