"""Control-plane work on threads: bounded in number, in waiting and in time, whatever the server does."""

import asyncio
import time

import pytest
import sqlalchemy as sa

from harness.postgres import PostgresServer, shared_server
from tollhouse.errors import Unavailable
from tollhouse.storage.postgres import pool as pools
from tollhouse.storage.postgres.database import PostgresDatabase
from tollhouse.storage.postgres.pool import ControlPool


def sleep(seconds):
    return lambda connection: connection.execute(sa.text("SELECT pg_sleep(:s)"), {"s": seconds}) and "slept"


def run(url, scenario, **settings):
    async def main():
        pool = ControlPool(url, **{"connections": 2, "timeout_s": 5.0, **settings})
        try:
            await scenario(pool)
        finally:
            await pool.close()

    asyncio.run(main())


def test_no_more_run_than_there_are_connections_and_no_more_wait_than_the_bound(url, monkeypatch):
    monkeypatch.setattr(pools, "_MAX_WAITING", 3)

    async def scenario(pool):
        tasks = [asyncio.create_task(pool.read(sleep(0.5))) for _ in range(4)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [str, str, str, Unavailable]
        assert pool.engine.pool.checkedin() <= 2

    run(url, scenario)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(url, monkeypatch):
    monkeypatch.setattr(pools, "_LONGEST_S", 1)

    async def scenario(pool):
        with pytest.raises(Unavailable):
            await pool.read(sleep(20))
        assert await pool.read(sleep(0)) == "slept"

    run(url, scenario)


def test_a_server_that_does_not_answer_at_all_is_hung_up_on_also_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "_CLOSING_S", 0.5)
    with PostgresServer(tmp_path) as server:
        server.create_database("frozen")

        async def main():
            pool = ControlPool(server.url("frozen"), connections=2, timeout_s=5.0)
            await pool.read(sleep(0))
            monkeypatch.setattr(pools, "_LONGEST_S", -4)  # One second: there are five beyond the statement's own.
            server.pause()
            try:
                with pytest.raises(Unavailable):
                    await pool.read(sleep(0))
                hanging = asyncio.create_task(pool.read(sleep(0)))
                await asyncio.sleep(0)
                await pool.close()
                with pytest.raises(Unavailable):
                    await hanging
            finally:
                server.resume()

        asyncio.run(main())


def test_work_that_has_not_begun_when_the_pool_closes_is_refused(url):
    async def main():
        pool = ControlPool(url, connections=1, timeout_s=5.0)
        waiting = [asyncio.create_task(pool.read(sleep(0.3))) for _ in range(20)]
        await asyncio.sleep(0.1)
        await pool.close()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(ended[-1], Unavailable)
        assert not any(isinstance(each, asyncio.CancelledError) for each in ended)

    asyncio.run(main())


def test_what_the_server_sets_by_default_does_not_change_what_transactions_see_or_keep(url, name):
    shared_server().execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    shared_server().execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async def main():
        database = PostgresDatabase(url)
        await database.open()
        try:
            connection = await database.dial()
            lane = [await connection.fetchval(f"SHOW {setting}") for setting in SETTINGS]
            await connection.close()
            control = await database.write(
                lambda opened: [opened.exec_driver_sql(f"SHOW {setting}").scalar() for setting in SETTINGS]
            )
            assert lane == control == ["read committed", "on"]
        finally:
            await database.close()

    asyncio.run(main())


SETTINGS = ("transaction_isolation", "synchronous_commit")


def test_slow_requests_do_not_keep_the_service_from_its_own_duties(url):
    async def main():
        database = PostgresDatabase(url)
        await database.open()
        try:
            slow = [asyncio.create_task(database.read(sleep(3))) for _ in range(8)]
            await asyncio.sleep(0.2)
            started_s = time.monotonic()
            assert await database.reserved.read(sleep(0)) == "slept"
            assert not any(task.done() for task in slow), "the duty did not wait for them"
            assert time.monotonic() >= started_s
            for task in slow:
                task.cancel()
        finally:
            await database.close()

    asyncio.run(main())
