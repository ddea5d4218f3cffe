import asyncio
import contextlib
import sqlite3
import threading

import msgspec
import pytest
import sqlalchemy as sa

from harness.database import Put, Puts, open_database, settings
from tollhouse.errors import BudgetExceeded, InternalError, NotFound, Unavailable
from tollhouse.storage import sqlite


def run(tmp_path, scenario):
    """Run ``scenario(database, puts)`` on a new database."""

    async def main():
        puts = Puts()
        async with open_database(tmp_path / "db", {Put: puts}) as database:
            await scenario(database, puts)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def writer_held(database):
    """Keep the writer busy with a transaction until the block ends."""
    started, go_on = threading.Event(), threading.Event()

    def work(_connection):
        started.set()
        assert go_on.wait(20)

    holding = asyncio.create_task(database.write(work))
    await asyncio.to_thread(started.wait, 20)
    try:
        yield
    finally:
        go_on.set()
        await holding


async def submitted(database, *operations):
    """Submit operations without waiting for what comes of them."""
    tasks = [asyncio.ensure_future(database.submit(operation)) for operation in operations]
    await asyncio.sleep(0)
    return tasks


def test_what_is_submitted_in_one_turn_of_the_loop_shares_a_transaction(tmp_path):
    async def scenario(database, puts):
        outcomes = await asyncio.gather(*(database.submit(Put(f"{number}")) for number in range(100)))
        assert outcomes == [f"put {number}" for number in range(100)]
        assert [len(batch) for batch in puts.batches] == [100]

    run(tmp_path, scenario)


def test_what_arrives_during_a_commit_shares_the_next_one(tmp_path):
    async def scenario(database, puts):
        async with writer_held(database):
            waiting = []
            for number in range(50):
                waiting += await submitted(database, Put(f"{number}"))
            assert database.waiting == 50
            assert puts.batches == []
        await asyncio.gather(*waiting)
        assert [len(batch) for batch in puts.batches] == [50]
        assert database.waiting == 0

    run(tmp_path, scenario)


def test_what_submit_returned_for_is_committed(tmp_path):
    async def scenario(database, _puts):
        await database.submit(Put("name", "value"))
        with contextlib.closing(sqlite3.connect(tmp_path / "db")) as other:
            assert other.execute("SELECT value FROM ai_settings WHERE name = 'name'").fetchone() == ("value",)

    run(tmp_path, scenario)


def test_commits_are_synced_to_the_disk(tmp_path):
    async def scenario(database, _puts):
        pragmas = ("journal_mode", "synchronous", "fullfsync")
        assert [database._raw.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == ["wal", 2, 1]

    run(tmp_path, scenario)


def test_a_refusal_of_one_operation_leaves_the_others_of_its_batch(tmp_path):
    async def scenario(database, puts):
        refused = Put("b", refusal=BudgetExceeded("too dear"))
        outcomes = await asyncio.gather(*map(database.submit, [Put("a"), refused, Put("c")]), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["put a", "too dear", "put c"]
        assert await database.read(settings) == {"a": "", "c": ""}
        assert len(puts.batches) == 1

    run(tmp_path, scenario)


@pytest.mark.parametrize("with_work", [False, True], ids=["on the loop", "on the writer thread"])
def test_an_operation_that_breaks_a_rule_fails_alone(tmp_path, with_work):
    async def scenario(database, puts):
        await database.submit(Put("taken", "first"))
        puts.batches.clear()
        work = [database.write(settings)] if with_work else []
        outcomes = await asyncio.gather(
            *map(database.submit, [Put("a"), Put("taken", "second"), Put("c")]), *work, return_exceptions=True
        )
        assert [outcomes[0], outcomes[2]] == ["put a", "put c"]
        assert isinstance(outcomes[1], InternalError)
        assert isinstance(outcomes[1].__cause__, sqlite3.IntegrityError)
        assert await database.read(settings) == {"taken": "first", "a": "", "c": ""}
        assert puts.batches == [["a", "taken", "c"], ["a"], ["taken"], ["c"]]

    run(tmp_path, scenario)


def test_what_was_changed_in_memory_is_undone_with_the_transaction_last_change_first(tmp_path):
    async def scenario(database, puts):
        await database.submit(Put("taken"))
        assert puts.undone == []
        await asyncio.gather(*map(database.submit, [Put("a"), Put("taken"), Put("c")]), return_exceptions=True)
        # The batch was undone as a whole as far as it had come; then, alone, only what broke the rule.
        assert puts.undone == ["taken", "a", "taken"]

    run(tmp_path, scenario)


def test_a_write_that_fails_undoes_its_own_changes_alone(tmp_path):
    async def scenario(database, _puts):
        def failing(connection):
            connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('failing', '')")
            raise NotFound("no such thing")

        def breaking(connection):
            connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('breaking', '')")
            connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('breaking', '')")

        def good(connection):
            connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('good', '')")
            return "done"

        outcomes = await asyncio.gather(
            database.write(failing),
            database.write(good),
            database.write(breaking),
            database.submit(Put("put")),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], NotFound)
        assert outcomes[1] == "done"
        assert isinstance(outcomes[2], sa.exc.IntegrityError)
        assert outcomes[3] == "put put"
        assert await database.read(settings) == {"good": "", "put": ""}

    run(tmp_path, scenario)


def test_operations_see_what_writes_of_their_own_batch_did(tmp_path):
    class Look(msgspec.Struct):
        pass

    def looking(transaction, looks):
        return [transaction.connection.execute("SELECT name FROM ai_settings").fetchall() for _ in looks]

    def work(connection):
        connection.exec_driver_sql("INSERT INTO ai_settings VALUES ('written', '')")

    async def main():
        async with open_database(tmp_path / "db", {Look: looking}) as database:
            seen, _ = await asyncio.gather(database.submit(Look()), database.write(work))
            assert seen == [("written",)]

    asyncio.run(main())


def test_types_of_operations_run_in_the_order_they_were_named(tmp_path):
    class First(msgspec.Struct):
        pass

    class Second(msgspec.Struct):
        pass

    ran: list[type] = []

    def noting(_transaction, operations):
        ran.extend(type(operation) for operation in operations)
        return [None] * len(operations)

    async def main():
        async with open_database(tmp_path / "db", {First: noting, Second: noting}) as database:
            await asyncio.gather(*map(database.submit, [Second(), First(), Second(), First()]))

    asyncio.run(main())
    assert ran == [First, First, Second, Second]


def test_a_read_cannot_change_anything(tmp_path):
    async def scenario(database, _puts):
        for statement in ("INSERT INTO ai_settings VALUES ('a', '')", "DELETE FROM ai_settings", "DROP TABLE ai_jobs"):
            with pytest.raises(sa.exc.OperationalError):
                await database.read(lambda connection, text=statement: connection.exec_driver_sql(text))
        assert await database.read(settings) == {}

    run(tmp_path, scenario)


def test_a_read_sees_one_snapshot_however_long_it_takes(tmp_path):
    async def scenario(database, _puts):
        looked, go_on = threading.Event(), threading.Event()

        def work(connection):
            before = settings(connection)
            looked.set()
            assert go_on.wait(20)
            return before, settings(connection)

        reading = asyncio.create_task(database.read(work))
        await asyncio.to_thread(looked.wait, 20)
        await database.submit(Put("meanwhile"))
        go_on.set()
        assert await reading == ({}, {})
        assert await database.read(settings) == {"meanwhile": ""}

    run(tmp_path, scenario)


def test_a_read_that_fails_leaves_the_next_one_a_fresh_snapshot(tmp_path):
    async def scenario(database, _puts):
        for number in range(5):
            with pytest.raises(ZeroDivisionError):
                await database.read(lambda _connection: 1 // 0)
            await database.submit(Put(f"{number}"))
            assert len(await database.read(settings)) == number + 1

    run(tmp_path, scenario)


def test_no_more_wait_than_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_MAX_WAITING", 3)

    async def scenario(database, _puts):
        async with writer_held(database):
            waiting = await submitted(database, *(Put(f"{number}") for number in range(3)))
            with pytest.raises(Unavailable, match="too many calls wait") as caught:
                await database.submit(Put("one too many"))
            assert caught.value.retry_after_s
        assert await asyncio.gather(*waiting) == ["put 0", "put 1", "put 2"]
        assert await database.submit(Put("later")) == "put later"

    run(tmp_path, scenario)


def test_an_operation_whose_caller_was_cancelled_is_carried_out_all_the_same(tmp_path):
    async def scenario(database, _puts):
        async with writer_held(database):
            leaving, staying = await submitted(database, Put("leaving"), Put("staying"))
            leaving.cancel()
        assert await staying == "put staying"
        assert leaving.cancelled()
        assert set(await database.read(settings)) == {"leaving", "staying"}

    run(tmp_path, scenario)


def test_closing_commits_what_waits_and_refuses_what_comes_after(tmp_path):
    async def main():
        puts = Puts()
        async with open_database(tmp_path / "db", {Put: puts}) as database:
            async with writer_held(database):
                waiting = await submitted(database, *(Put(f"{number}") for number in range(20)))
                closing = asyncio.create_task(database.close())
                await asyncio.sleep(0)
                with pytest.raises(Unavailable, match="stopping"):
                    await database.submit(Put("late"))
            await closing
            assert all(task.done() for task in waiting)
        async with open_database(tmp_path / "db") as database:
            assert len(await database.read(settings)) == 20

    asyncio.run(main())


def test_what_cannot_be_read_is_told_as_unavailable(tmp_path):
    async def scenario(database, _puts):
        (tmp_path / "db").rename(tmp_path / "elsewhere")
        with pytest.raises(Unavailable, match="cannot be read") as told:
            await database.read(settings)
        assert told.value.retry_after_s
        (tmp_path / "elsewhere").rename(tmp_path / "db")
        assert await database.read(settings) == {}

    run(tmp_path, scenario)
