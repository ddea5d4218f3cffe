"""What a failed statement means: whether it can have been committed, and what is to be done then."""

from enum import Enum

import asyncpg

from tollhouse.errors import EpochLost, Unavailable, Undecided

EPOCH_LOST = "TH001"
"""SQLSTATE that functions/ raise for an instance that was declared lost."""
ENDED_BEFORE = "TH003"
"""SQLSTATE that functions/ raise for an attempt that was ended already."""
OTHER_EPOCH = "TH002"
"""SQLSTATE that functions/ raise for an attempt that this instance began before it was declared lost."""

_RETRIED = {"40001", "40P01", "55P03"}
# Resources, limits, the system below, and a server that takes no writes: all of it is rolled back.
_CANNOT_WRITE_CLASSES = {"53", "54", "58", "XX"}
_CANNOT_WRITE = {"57014", "25006"}
_DISCONNECTED_CLASSES = {"08", "57"}
_READ_ONLY = "25006"


class Meaning(Enum):
    """What a failure says of the transaction it came from."""

    REFUSED = "one of the operations broke a rule; nothing was changed"
    RETRIED = "it met another transaction, and was rolled back; the same again may pass"
    CANNOT_WRITE = "the server cannot write now; nothing was changed"
    EPOCH_LOST = "this instance was declared lost; nothing was changed"
    UNDECIDED = "the connection broke: it may have been committed, or may be yet"


def meaning_of(error: BaseException) -> Meaning:
    """Return what a failure of the hot path's driver means."""
    state = sqlstate_of(error)
    if state is None:
        # InternalClientError: the server's last words, that it ends the connection, came between two statements.
        driver = asyncpg.InterfaceError | asyncpg.InternalClientError
        is_disconnected = isinstance(error, OSError | TimeoutError | EOFError | driver)
        return Meaning.UNDECIDED if is_disconnected else Meaning.REFUSED
    if state == EPOCH_LOST:
        return Meaning.EPOCH_LOST
    if state in _RETRIED:
        return Meaning.RETRIED
    if state in _CANNOT_WRITE or state[:2] in _CANNOT_WRITE_CLASSES:
        return Meaning.CANNOT_WRITE
    return Meaning.UNDECIDED if state[:2] in _DISCONNECTED_CLASSES else Meaning.REFUSED


def sqlstate_of(error: BaseException) -> str | None:
    """Return the five characters by which PostgreSQL names an error, or None for an error that is not its own."""
    # InterfaceError is the driver's, though some of its kinds carry a class.
    state = None if isinstance(error, asyncpg.InterfaceError) else getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_read_only(error: BaseException) -> bool:
    """Whether the server takes no writes, since another is the primary now."""
    return sqlstate_of(error) == _READ_ONLY


def unavailable() -> Unavailable:
    """Return what callers are told while the database cannot be written; nothing was changed."""
    return Unavailable("the ledger cannot be written just now; try again shortly", retry_after_s=1)


def undecided() -> Undecided:
    """Return what a caller is told that no longer waits."""
    return Undecided("the ledger did not answer in time; try again shortly", retry_after_s=2)


def epoch_lost() -> EpochLost:
    """Return what a caller is told whose attempt another instance has taken over, or will."""
    return EpochLost(
        "this instance was out of touch for too long, and others took over; try again shortly", retry_after_s=1
    )


def outdated() -> Unavailable:
    """Return what a caller is told by an instance whose database is another version's now."""
    return Unavailable("this instance is being replaced by one of another version; try again shortly", retry_after_s=5)
