"""What happens when the disk takes no more: SQLite says so by itself when its page count is bounded."""

import asyncio
import contextlib
import sqlite3

import pytest

from harness.database import Put, Puts, open_database, settings
from tollhouse.errors import Unavailable

LARGE = "x" * 100_000


@contextlib.contextmanager
def full(database):
    raw = database._raw
    (before,) = raw.execute("PRAGMA max_page_count").fetchone()
    (pages,) = raw.execute("PRAGMA page_count").fetchone()
    raw.execute(f"PRAGMA max_page_count = {pages}")
    yield
    raw.execute(f"PRAGMA max_page_count = {before}")


@contextlib.contextmanager
def commits_failing(database):
    def authorize(action, operation, *_):
        denied = action == sqlite3.SQLITE_TRANSACTION and operation == "COMMIT"
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    database._raw.set_authorizer(authorize)
    yield
    database._raw.set_authorizer(None)


def run(tmp_path, scenario):
    async def main():
        puts = Puts()
        async with open_database(tmp_path / "db", {Put: puts}) as database:
            await database.submit(Put("before"))
            await scenario(database, puts)

    asyncio.run(main())


async def outcomes_of(database, *operations):
    return await asyncio.gather(*map(database.submit, operations), return_exceptions=True)


@pytest.mark.parametrize("trouble", [full, commits_failing])
def test_everybody_is_told_that_the_ledger_cannot_be_written_and_nothing_was_changed(tmp_path, trouble):
    async def scenario(database, puts):
        with trouble(database):
            outcomes = await outcomes_of(database, Put("small"), Put("large", LARGE), Put("other"))
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        assert all(outcome.retry_after_s for outcome in outcomes)
        assert await database.read(settings) == {"before": ""}
        # One batch was tried, and what it had changed in memory was undone.
        assert puts.batches == [["before"], ["small", "large", "other"]]
        assert puts.undone == (["large", "small"] if trouble is full else ["other", "large", "small"])

    run(tmp_path, scenario)


@pytest.mark.parametrize("trouble", [full, commits_failing])
def test_it_heals_by_itself_once_the_disk_takes_writes_again(tmp_path, trouble):
    async def scenario(database, _puts):
        with trouble(database):
            await outcomes_of(database, Put("large", LARGE))
        assert await outcomes_of(database, Put("large", LARGE), Put("small")) == ["put large", "put small"]
        assert set(await database.read(settings)) == {"before", "large", "small"}

    run(tmp_path, scenario)


@pytest.mark.parametrize("trouble", [full, commits_failing])
def test_control_plane_work_is_told_so_too(tmp_path, trouble):
    def work(connection):
        connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('large', ?)", (LARGE,))

    async def scenario(database, _puts):
        with trouble(database):
            outcomes = await asyncio.gather(database.write(work), database.submit(Put("small")), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2
        await database.write(work)
        assert set(await database.read(settings)) == {"before", "large"}

    run(tmp_path, scenario)


def test_reading_goes_on_while_the_disk_is_full(tmp_path):
    async def scenario(database, _puts):
        with full(database):
            await outcomes_of(database, Put("large", LARGE))
            assert await database.read(settings) == {"before": ""}

    run(tmp_path, scenario)


def test_another_program_that_locks_the_file_does_not_hold_up_the_event_loop(tmp_path):
    async def scenario(database, puts):
        with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert [type(outcome) for outcome in await outcomes_of(database, Put("put"))] == [Unavailable]
            # Statements run on the event loop, which would stand still for as long as SQLite waits for a lock.
            assert database._raw.execute("PRAGMA busy_timeout").fetchone() == (0,)
            assert await database.read(settings) == {"before": ""}
            other.execute("ROLLBACK")
        assert await database.submit(Put("put")) == "put put"
        assert puts.batches == [["before"], ["put"]]

    run(tmp_path, scenario)
