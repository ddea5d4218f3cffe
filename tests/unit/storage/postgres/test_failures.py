import asyncio
import socket

import asyncpg
import pytest

from tollhouse.errors import EpochLost, Unavailable, Undecided
from tollhouse.storage.postgres.failures import (
    Meaning,
    epoch_lost,
    is_read_only,
    meaning_of,
    sqlstate_of,
    unavailable,
    undecided,
)


def of_the_server(state):
    return asyncpg.PostgresError.new({"C": state, "M": "as it were"})


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        # Rules of the schema and of its functions.
        ("23505", Meaning.REFUSED),
        ("23514", Meaning.REFUSED),
        ("23001", Meaning.REFUSED),
        ("22021", Meaning.REFUSED),
        ("22003", Meaning.REFUSED),
        ("P0001", Meaning.REFUSED),
        ("42P01", Meaning.REFUSED),
        ("42501", Meaning.REFUSED),
        ("TH002", Meaning.REFUSED),
        ("TH001", Meaning.EPOCH_LOST),
        # Other transactions.
        ("40001", Meaning.RETRIED),
        ("40P01", Meaning.RETRIED),
        ("55P03", Meaning.RETRIED),
        # Resources, a damaged disk, a statement that took too long, a standby.
        ("53100", Meaning.CANNOT_WRITE),
        ("53200", Meaning.CANNOT_WRITE),
        ("53300", Meaning.CANNOT_WRITE),
        ("54001", Meaning.CANNOT_WRITE),
        ("58030", Meaning.CANNOT_WRITE),
        ("XX000", Meaning.CANNOT_WRITE),
        ("XX001", Meaning.CANNOT_WRITE),
        ("57014", Meaning.CANNOT_WRITE),
        ("25006", Meaning.CANNOT_WRITE),
        # The end of a connection.
        ("08006", Meaning.UNDECIDED),
        ("08003", Meaning.UNDECIDED),
        ("57P01", Meaning.UNDECIDED),
        ("57P02", Meaning.UNDECIDED),
        ("57P03", Meaning.UNDECIDED),
    ],
)
def test_what_the_server_says(state, meaning):
    assert sqlstate_of(of_the_server(state)) == state
    assert meaning_of(of_the_server(state)) is meaning


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset by peer"),
        BrokenPipeError(),
        socket.gaierror("no such host"),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 4),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.exceptions._base.ProtocolError("unexpected message"),
        asyncpg.exceptions._base.TargetServerAttributeNotMatched("no host is the primary"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_leaves_it_open_whether_it_was_committed(error):
    assert meaning_of(error) is Meaning.UNDECIDED


@pytest.mark.parametrize("error", [ValueError("a defect"), AssertionError(), KeyError("x"), asyncpg.DataError("$1")])
def test_a_defect_of_ours_is_one_operations_own(error):
    assert meaning_of(error) is Meaning.REFUSED


def test_only_the_server_names_errors():
    class Misleading(asyncpg.InterfaceError):  # type: ignore[misc]
        sqlstate = "23505"

    assert sqlstate_of(Misleading("closed")) is None
    assert meaning_of(Misleading("closed")) is Meaning.UNDECIDED
    assert sqlstate_of(ValueError()) is None


def test_a_server_that_takes_no_writes_is_told_from_a_full_one():
    assert is_read_only(of_the_server("25006"))
    assert not is_read_only(of_the_server("53100"))
    assert not is_read_only(ConnectionResetError())


def test_callers_are_told_to_come_back():
    for refusal, kind in ((unavailable(), Unavailable), (undecided(), Undecided), (epoch_lost(), EpochLost)):
        assert type(refusal) is kind
        assert refusal.status == 503
        assert refusal.retry_after_s
        assert "postgres" not in refusal.message.lower()
