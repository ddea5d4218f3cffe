"""What the API process does beside its calls: writing what could not be written, and ending what has expired."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tollhouse.errors import Unavailable
from tollhouse.idempotency import store as idempotency
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.service import Ledger
from tollhouse.storage.database import Database

_FORGET_EVERY_S = 60.0
_FORGET_AT_ONCE = 1000
_EXPIRE_EVERY_S = 60.0
_LOG = structlog.get_logger("tollhouse.housekeeping")


async def keep_house(
    ledger: Ledger,
    database: Database,
    clock: Clock,
    expire_unknown: Callable[[], Awaitable[int]],
    further: Sequence[Callable[[], Awaitable[None]]] = (),
) -> None:
    """Run until cancelled. A defect in one duty is logged, and ends none of the others.

    Args:
        expire_unknown: frees the calls of unknown outcome that were held for long enough.
        further: the duties that the database and the other parts bring along.
    """
    duties = [
        ledger.keep_writing(),
        _forget_expired_answers(database, clock),
        _expire_regularly(expire_unknown),
        *(duty() for duty in further),
    ]
    await asyncio.gather(*(_logged(duty) for duty in duties))


async def keep_running(duties: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run duties until cancelled, each as ``keep_house`` does."""
    await asyncio.gather(*(_logged(duty()) for duty in duties))


async def _logged(duty: Awaitable[None]) -> None:
    try:
        await duty
    except Exception:  # noqa: BLE001 - logged, and the other duties go on
        _LOG.exception("a duty of housekeeping ended on a defect; restart the service")


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
