"""A database on its own, operations for it that do nothing but what a test asks, and databases that refuse to write."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import asyncpg
import msgspec

from harness.engines import database_name
from harness.postgres import shared_server
from tollhouse.storage.database import Database, Transaction
from tollhouse.storage.postgres.database import PostgresDatabase
from tollhouse.storage.postgres.lane import Lane
from tollhouse.storage.sqlite import SqliteDatabase


class Put(msgspec.Struct, frozen=True):
    """The operation that writes a row of ``ai_settings``; a name that is taken breaks the batch.

    Attributes:
        refusal: an outcome for this operation alone, instead of the row.
    """

    name: str
    value: str = ""
    refusal: Exception | None = None


class Puts:
    """Handles ``Put``, and notes the batches it was given and what was undone."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.undone: list[str] = []

    def __call__(self, transaction: Transaction, puts: Sequence[Put]) -> list[Any]:
        self.batches.append([put.name for put in puts])
        return [self._put(transaction, put) for put in puts]

    def _put(self, transaction: Transaction, put: Put) -> Any:
        transaction.on_rollback(lambda: self.undone.append(put.name))
        if put.refusal is not None:
            return put.refusal
        transaction.connection.execute("INSERT INTO ai_settings VALUES (?, ?)", (put.name, put.value))
        return f"put {put.name}"


@asynccontextmanager
async def open_database(
    path: Path, handlers: dict[type[object], Callable[[Transaction, Sequence[Any]], Sequence[Any]]] | None = None
) -> AsyncIterator[SqliteDatabase]:
    """Open a database, with handlers in the order they are given."""
    database = SqliteDatabase(path)
    for operation, handler in (handlers or {}).items():
        database.handle(operation, handler)
    try:
        database.open()
        yield database
    finally:
        await database.close()


def settings(connection: Any) -> dict[str, str]:
    """Return the rows of ``ai_settings``."""
    return dict(connection.exec_driver_sql("SELECT name, value FROM ai_settings").all())


@asynccontextmanager
async def read_only(database: Database) -> AsyncIterator[None]:
    """Have a database refuse to write for a while."""
    await refuse_writes(database)
    try:
        yield
    finally:
        await take_writes(database)


async def refuse_writes(database: Database) -> None:
    """Have a database refuse to write from now on, as a full disk or a standby does."""
    await _set_read_only(database, "on")


async def take_writes(database: Database) -> None:
    """Have a database write again."""
    await _set_read_only(database, "off")


async def _set_read_only(database: Database, switch: str) -> None:
    if isinstance(database, SqliteDatabase):
        assert database._raw is not None
        database._raw.execute(f"PRAGMA query_only = {switch}")
        return
    assert isinstance(database, PostgresDatabase)
    name = database_name(database._url)
    shared_server().execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {switch}")
    # It is for new connections only.
    assert database._control is not None
    database._control.engine.dispose()
    await break_lanes(database)


def break_next(database: Database, operation: type[object], when: Literal["before", "after"]) -> None:
    """Have the connection break just before the next batch of a type of operations is sent, or once it is committed."""
    assert isinstance(database, PostgresDatabase)
    statement: Any = database._lanes[operation]._statements[operation]
    plain = statement.run

    async def run(connection: asyncpg.Connection, operations: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        statement.run = plain
        if when == "before":
            terminate(connection)
        outcomes: Sequence[Any] = await plain(connection, operations, timeout_s)
        terminate(connection)
        raise asyncpg.ConnectionDoesNotExistError(f"the answer to {outcomes} was lost")

    statement.run = run


async def break_lanes(database: Database) -> None:
    """End the server processes of the hot path, and wait until its connections have been made again."""
    assert isinstance(database, PostgresDatabase)
    broken = {lane: lane._connection for lane in database._open_lanes}
    for connection in filter(None, broken.values()):
        shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", connection.get_server_pid())
    async with asyncio.timeout(20):
        while any(lane._connection in {None, before} for lane, before in broken.items()):
            await asyncio.sleep(0.002)


class LanePut(msgspec.Struct, frozen=True):
    """Writes a row of ``ai_settings`` on PostgreSQL; a name that is taken breaks a rule."""

    name: str
    value: object = ""
    refusal: Exception | None = None


class LaneTry(LanePut, frozen=True):
    """A put whose submitter is told at once that the database is away."""


class LanePuts:
    """Carries out puts, and does what a test asks before and after the statement that commits them."""

    def __init__(self, *, waits_for_connection=True):
        self.waits_for_connection = waits_for_connection
        self.batches: list[list[str]] = []
        self.lates: list[tuple[str, object]] = []
        self.looks = 0
        self.before = self.after = self.before_look = _nothing

    async def run(self, connection, operations, timeout_s):
        self.batches.append([put.name for put in operations])
        await self.before(connection)
        rows = [(put.name, put.value) for put in operations if put.refusal is None]
        await connection.execute(
            "INSERT INTO ai_settings SELECT * FROM unnest($1::text[], $2::text[])",
            [name for name, _ in rows],
            [value for _, value in rows],
            timeout=timeout_s,
        )
        await self.after(connection)
        return [put.refusal or f"put {put.name}" for put in operations]

    async def look(self, connection, operations):
        self.looks += 1
        await self.before_look(connection)
        found = {row[0] for row in await connection.fetch("SELECT name FROM ai_settings")}
        return [f"found {put.name}" if put.name in found else None for put in operations]

    def late(self, operation, outcome):
        self.lates.append((operation.name, outcome))


async def _nothing(_connection):
    return


class LaneDesk:
    """An open lane with its puts, on a database that can be put out of reach."""

    def __init__(self, url):
        self.url = url
        self.name = database_name(url)
        self.puts, self.tries = LanePuts(), LanePuts(waits_for_connection=False)
        self.is_away = False

    async def dial(self):
        if self.is_away:
            raise ConnectionRefusedError("the database is away")
        return await asyncpg.connect(self.url)

    @property
    def lane(self):
        return self._lane

    async def open(self, patience_s):
        self._lane = Lane("puts", self.dial, {LanePut: self.puts, LaneTry: self.tries}, patience_s=patience_s)
        await self._lane.open()

    async def put(self, *names, of=LanePut):
        return await asyncio.gather(*(self.lane.submit(of(name)) for name in names), return_exceptions=True)

    def written(self):
        return sorted(
            row[0] for row in shared_server().execute("SELECT name FROM ai_settings", self.name) if row[0][0] != "f"
        )

    def break_connection(self):
        terminate(self.lane._connection)

    async def until(self, is_so):
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.002)


def terminate(connection):
    shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", connection.get_server_pid())


def run_on_lane(url, scenario, *, patience_s=20.0):
    async def main():
        desk = LaneDesk(url)
        await desk.open(patience_s)
        try:
            await scenario(desk)
        finally:
            await desk.lane.close()

    asyncio.run(main())


@asynccontextmanager
async def table_held(desk):
    """Keep the table locked, so that what writes it waits on the server."""
    connection = await asyncpg.connect(desk.url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE ai_settings IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def waits_on_the_server(desk):
    """Wait until the lane's statement waits for the lock."""
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1 AND query LIKE 'INSERT%'"
    async with asyncio.timeout(20):
        while not shared_server().execute(query, "postgres", desk.name):
            await asyncio.sleep(0.005)
