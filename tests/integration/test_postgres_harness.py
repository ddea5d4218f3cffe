"""The PostgreSQL server of the tests does what they rely on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from harness.postgres import PostgresServer, fresh_database, new_database, shared_server

pytestmark = pytest.mark.engine("postgresql")

_prepared: list[str] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[PostgresServer]:
    """A server that these tests may stop, unlike the shared one."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), settings={"max_connections": "50"}) as server:
        server.create_database("app")
        yield server


@pytest.fixture
def numbers(server) -> Iterator[str]:
    """The URL of a database with an empty table of numbers."""
    on_url(server.url("app"), "CREATE TABLE numbers (n bigint PRIMARY KEY)")
    yield server.url("app")
    server.execute("DROP TABLE numbers", "app")


def on_url(url, *statements):
    """Run statements as the service's role, and return the rows of the last."""

    async def main():
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetch(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(main())


def values(url):
    return [row["n"] for row in on_url(url, "SELECT n FROM numbers ORDER BY n")]


def prepare(url):
    _prepared.append(url)
    on_url(url, "CREATE TABLE numbers (n bigint PRIMARY KEY)", "INSERT INTO numbers VALUES (7)")


def test_it_is_durable_and_the_role_is_not_a_superuser(server):
    (role,) = on_url(
        server.url("app"), "SELECT rolname, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    )
    assert tuple(role) == ("tollhouse", False, True)
    (settings,) = on_url(
        server.url("app"),
        "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('max_connections'), "
        "current_setting('server_encoding'), current_setting('server_version_num')::int / 10000",
    )
    assert tuple(settings) == ("on", "on", "50", "UTF8", 18)


def test_a_wrong_password_is_refused(server):
    with pytest.raises(asyncpg.InvalidPasswordError):
        on_url(server.url("app").replace(":tollhouse@", ":wrong@"), "SELECT 1")


@pytest.mark.parametrize("how", ["smart", "fast", "immediate", "kill"])
def test_what_was_committed_outlives_every_way_of_ending(server, numbers, how):
    on_url(numbers, "INSERT INTO numbers VALUES (1)")
    if how == "kill":
        server.kill()
        assert not server.is_running
        server.start()
    else:
        server.restart(how)
    assert values(numbers) == [1]
    assert ("database system was not properly shut down" in server.log()[-3000:]) == (how in {"immediate", "kill"})


def test_settings_can_change_with_a_restart(server):
    server.settings["max_connections"] = "40"
    server.restart()
    assert server.execute("SELECT current_setting('max_connections') AS most") == [("40",)]


def test_while_it_is_paused_nothing_answers_and_afterwards_everything_does(server, numbers):
    async def main():
        connection = await asyncpg.connect(numbers)
        server.pause()
        insert = asyncio.create_task(connection.execute("INSERT INTO numbers VALUES (1)"))
        done, _ = await asyncio.wait({insert}, timeout=0.3)
        assert not done
        with pytest.raises(TimeoutError):
            server.execute("SELECT 1", timeout_s=0.2)
        server.resume()
        assert await insert == "INSERT 0 1"
        await connection.close()

    asyncio.run(main())
    assert values(numbers) == [1]


def test_a_paused_server_can_be_stopped(server, numbers):
    server.pause()
    server.restart()
    assert values(numbers) == []


def test_it_knows_who_is_connected_inside_a_running_event_loop_too(server):
    async def main():
        connection = await asyncpg.connect(server.url("app"))
        assert server.connections("app") == 1
        assert server.connections("postgres") == 0
        assert server.backend_pids() == server.backend_pids("app") == [connection.get_server_pid()]
        server.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", "app", server.backend_pids())
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await connection.fetch("SELECT 1")

    asyncio.run(main())


def test_version_16_runs_as_well(tmp_path):
    with PostgresServer(tmp_path / "old", "16") as server:
        server.create_database("app")
        (row,) = on_url(server.url("app"), "SELECT current_setting('server_version_num')::int / 10000 AS version")
        assert row["version"] == 16
        pids = [server.process.pid, *server._children()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_databases_are_copied_from_a_template_that_is_prepared_once():
    with fresh_database(prepare) as first, fresh_database(prepare) as second, fresh_database() as empty:
        assert len({first, second, empty}) == 3
        on_url(first, "INSERT INTO numbers VALUES (8)")
        assert values(first) == [7, 8]
        assert values(second) == [7]
        with pytest.raises(asyncpg.UndefinedTableError):
            values(empty)
    assert values(new_database(prepare)) == [7]
    assert len(_prepared) == 1


def test_a_database_is_dropped_even_while_somebody_is_connected():
    async def main():
        # Nothing is prepared, since that starts an event loop of its own.
        with fresh_database() as url:
            connection = await asyncpg.connect(url)
        connection.terminate()
        names = {row["datname"] for row in shared_server().execute("SELECT datname FROM pg_database")}
        assert url.rsplit("/", 1)[1] not in names

    asyncio.run(main())
