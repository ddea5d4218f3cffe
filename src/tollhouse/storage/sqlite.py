"""The embedded engine: SQLite, with one connection that ever writes.

Group commit: what is submitted while a transaction commits waits for the next one, which takes all of it, together
with what the event loop still has at hand. Nobody waits for a timer: a batch starts as soon as the loop comes round
without bringing more for it.

The hot path's statements run on the event loop, since each takes microseconds and would cost more in handing the
interpreter lock back and forth between threads. The commit, which waits for the disk, runs on the writer thread; so
does everything of a batch that holds control-plane work, whose statements may take long.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from tollhouse.errors import InternalError, StartError, TollhouseError, Unavailable
from tollhouse.storage import migrate
from tollhouse.storage.database import BatchHandler, is_given_up
from tollhouse.storage.schema import REVISION

T = TypeVar("T")

_MAX_WAITING = 50_000
# What arrives in one turn of the loop is submitted in the next, so that fewer turns would not show that there is no
# more. A full batch starts at once: a larger one would save nothing, and hold up the loop while it runs.
_QUIET_TURNS = 3
_FULL_BATCH = 256
_READERS = 2
_LOG = structlog.get_logger("tollhouse.storage")

# What one operation did wrong; any other error of the database concerns all of them.
_BROKEN_RULES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)

# The machine's trouble, or another program's doing; any other failure of a read is a defect of its statement.
_UNREADABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}

# FULL: a commit returns after its write-ahead log was fsync'd. The cache is bounded, in KiB (negative by SQLite's
# convention), since a ledger of millions of rows is written at its end and read by key.
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -8192",
    "PRAGMA temp_store = MEMORY",
)


class _Work:
    """A piece of control-plane work, which rides in the same batches as the hot path's operations."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[sa.Connection], Any]) -> None:
        self.run = run


_Job = tuple[object, "asyncio.Future[Any]"]


class _Batch:
    """Operations that share a transaction. It is also the ``Transaction`` that handlers see."""

    def __init__(
        self, jobs: list[_Job], connection: sqlite3.Connection, handlers: Mapping[type[object], BatchHandler]
    ) -> None:
        self.jobs = jobs
        self.places: dict[type[object], list[int]] = {}
        for place, (operation, _) in enumerate(jobs):
            self.places.setdefault(type(operation), []).append(place)
        self.connection = connection
        self.outcomes: Sequence[Any] = ()
        self.is_executed = False
        self._handlers = handlers
        self._undo: list[Callable[[], None]] = []
        self._changes_before = 0

    def on_rollback(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def execute(self) -> bool:
        """Run all operations in a transaction and leave it to be committed; False when there is nothing to commit."""
        operations = [operation for operation, _ in self.jobs]
        self._changes_before = self.connection.total_changes
        try:
            self.outcomes = self._run(operations)
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller has to be told
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, _BROKEN_RULES):
                self._fail(error)
            else:
                self._fail_or_isolate(operations, error)
        self.is_executed = True
        return self.connection.in_transaction

    @property
    def has_changed(self) -> bool:
        """Whether it changed anything that has to reach the disk."""
        return self.connection.total_changes != self._changes_before

    def commit(self) -> None:
        """Make what was executed durable, or have every caller told that it was not."""
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            self._fail(error)
        else:
            # They lead back to this batch: without them it is freed at once, and the answers it holds.
            self._undo.clear()

    def _run(self, operations: Sequence[object]) -> list[Any]:
        outcomes: list[Any] = [None] * len(operations)
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for kind, handler in self._handlers.items():
                places = self.places.get(kind)
                if places:
                    results = handler(self, [operations[place] for place in places])
                    for place, result in zip(places, results, strict=True):
                        outcomes[place] = result
        except BaseException:
            self._roll_back()
            raise
        return outcomes

    def _roll_back(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            # SQLite rolls back by itself then, at the latest when the file is opened again.
            _LOG.error("a transaction could not be rolled back", reason=str(error))
        while self._undo:
            self._undo.pop()()

    def _fail(self, error: sqlite3.Error) -> None:
        """The disk is full, or reading or writing it failed: no smaller batch would fare better."""
        _LOG.error("the database cannot be written", reason=str(error), operations=len(self.jobs))
        self.outcomes = [
            Unavailable("the ledger cannot be written just now; try again shortly", retry_after_s=1) for _ in self.jobs
        ]

    def _fail_or_isolate(self, operations: Sequence[object], error: Exception) -> None:
        """An operation broke a rule of the schema: it fails alone, in a transaction of its own."""
        if len(operations) == 1:
            _LOG.error(
                "an operation was refused by the database", operation=type(operations[0]).__name__, exc_info=error
            )
            failure = InternalError("the ledger refused an inconsistent entry; nothing was changed")
            failure.__cause__ = error
            self.outcomes = [failure]
            return
        outcomes: list[Any] = []
        for job in self.jobs:
            alone = _Batch([job], self.connection, self._handlers)
            if alone.execute():
                alone.commit()
            outcomes += alone.outcomes
        self.outcomes = outcomes


class SqliteDatabase:
    """A SQLite file as ``Database``. Open it inside the event loop that will use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handlers: dict[type[object], BatchHandler] = {_Work: self._run_works}
        self._late: dict[type[object], Callable[[Any, Any], None]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Job] = []
        self._committing = False
        self._is_closing = False
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_batches, name="tollhouse-writer", daemon=True)
        self._engine: sa.Engine | None = None
        self._writer: sa.Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._read_engine: sa.Engine | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="tollhouse-reader")
        self._idle = asyncio.Event()
        self._idle.set()

    def handle(self, operation: type[object], handler: BatchHandler) -> None:
        self._handlers[operation] = handler

    def define(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Have statements that write know functions, each by its name; before ``open``."""
        self._functions |= functions

    def when_late(self, operation: type[object], take: Callable[[Any, Any], None]) -> None:
        """Have an operation and its outcome taken when its submitter has not waited for it."""
        self._late[operation] = take

    def open(self) -> None:
        """Open the file, migrating its schema if needed, and start the writer.

        Raises:
            StartError: the file cannot be opened, is no database, is damaged, or is of another program or version.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._raw = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._engine = sa.create_engine(
                "sqlite://", creator=lambda: self._raw, poolclass=sa.StaticPool, isolation_level="AUTOCOMMIT"
            )
            self._writer = self._engine.connect()
            # Looked at first, since the first pragma already changes the file, which may be another program's.
            is_current = migrate.is_current(self._writer)
            for pragma in _PRAGMAS:
                self._raw.execute(pragma)
            if not is_current:
                self._migrate(self._writer)
            # Another program that holds the file must not hold up the event loop: its calls are refused at once.
            self._raw.execute("PRAGMA busy_timeout = 0")
            for name, function in self._functions.items():
                self._raw.create_function(name, -1, function)
        except (sqlite3.Error, sa.exc.DBAPIError) as error:
            reason = getattr(error, "orig", None) or error
            raise StartError(
                f"{self._path}: cannot be used as a database: {reason}. Expected a Tollhouse database or no file "
                "at all; a damaged one is restored from a backup, and nothing was changed in it"
            ) from error
        except StartError as error:
            raise StartError(f"{self._path}: {error}") from error
        self._read_engine = open_read_only(self._path)
        self._thread.start()

    def _migrate(self, writer: sa.Connection) -> None:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            migrate.upgrade(writer)
        except BaseException:
            writer.exec_driver_sql("ROLLBACK")
            raise
        writer.exec_driver_sql("COMMIT")
        _LOG.info("database migrated", path=str(self._path), revision=REVISION)

    async def close(self) -> None:
        """Commit what waits, stop the writer and close the file; what is submitted from now on is refused."""
        self._is_closing = True
        await self._idle.wait()
        if self._thread.is_alive():
            self._batches.put(None)
            await asyncio.to_thread(self._thread.join)
        self._readers.shutdown(wait=True)
        if self._read_engine is not None:
            self._read_engine.dispose()
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, operation: object) -> asyncio.Future[Any]:
        assert self._loop is not None, "the database is not open"
        if self._is_closing:
            raise Unavailable("the service is stopping; try again shortly", retry_after_s=1)
        if len(self._waiting) >= _MAX_WAITING:
            raise Unavailable("too many calls wait for the ledger; try again shortly", retry_after_s=1)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((operation, future))
        if not self._committing:
            self._committing = True
            self._idle.clear()
            self._gather()
        return future

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        result: T = await self.submit(_Work(work))
        return result

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        assert self._loop is not None
        assert self._read_engine is not None, "the database is not open"
        try:
            return await self._loop.run_in_executor(self._readers, read_snapshot, self._read_engine, work)
        except sa.exc.DatabaseError as error:
            # The low byte of an extended code is the primary one (https://sqlite.org/rescode.html).
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF not in _UNREADABLE:
                raise
            _LOG.error("the database cannot be read", reason=str(error.orig))
            raise Unavailable(f"the database cannot be read: {error.orig}", retry_after_s=1) from error

    def _gather(self, seen: int = 0, quiet_turns: int = 0) -> None:
        """Start a batch once the loop has no more to put into it: all that share it share one fsync."""
        assert self._loop is not None
        waiting = len(self._waiting)
        quiet_turns = quiet_turns + 1 if waiting == seen else 0
        if quiet_turns == _QUIET_TURNS or waiting >= _FULL_BATCH:
            self._start_batch()
        else:
            self._loop.call_soon(self._gather, waiting, quiet_turns)

    def _start_batch(self) -> None:
        jobs, self._waiting = self._waiting, []
        batch = _Batch(jobs, self._connection(), self._handlers)
        if _Work in batch.places or (batch.execute() and batch.has_changed):
            self._batches.put(batch)
            return
        if self._connection().in_transaction:
            # All were refused: there is nothing to wait for, and who calls over his limit costs the others no thread.
            batch.commit()
        self._deliver(batch)

    def _connection(self) -> sqlite3.Connection:
        assert self._raw is not None, "the database is not open"
        return self._raw

    def _deliver(self, batch: "_Batch") -> None:
        for (operation, future), outcome in zip(batch.jobs, batch.outcomes, strict=True):
            if future.done():
                # Cancelled, or not waited for any longer.
                take_late = self._late.get(type(operation))
                if take_late is not None and is_given_up(future):
                    take_late(operation, outcome)
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if self._waiting:
            self._gather()
        else:
            self._committing = False
            self._idle.set()

    def _commit_batches(self) -> None:
        """The writer thread."""
        assert self._loop is not None
        while (batch := self._batches.get()) is not None:
            if batch.is_executed or batch.execute():
                batch.commit()
            self._loop.call_soon_threadsafe(self._deliver, batch)

    def _run_works(self, _transaction: object, works: Sequence[_Work]) -> list[Any]:
        return [self._run_work(work) for work in works]

    def _run_work(self, work: _Work) -> Any:
        """Run one piece of work under a savepoint, so that its failure undoes nobody else's."""
        assert self._writer is not None
        self._writer.exec_driver_sql("SAVEPOINT work")
        try:
            outcome = work.run(self._writer)
        except Exception as error:
            if isinstance(error, sa.exc.OperationalError):
                raise error.orig or error from error
            self._writer.exec_driver_sql("ROLLBACK TO work")
            self._writer.exec_driver_sql("RELEASE work")
            if not isinstance(error, TollhouseError):
                _LOG.exception("a write was undone")
            return error
        self._writer.exec_driver_sql("RELEASE work")
        return outcome


def open_read_only(path: Path) -> sa.Engine:
    """Return an engine whose connections cannot write, for reading beside the process that owns the file."""
    return sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        ),
        poolclass=sa.QueuePool,
        pool_size=_READERS,
        isolation_level="AUTOCOMMIT",
    )


def read_snapshot(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` on one consistent snapshot."""
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        try:
            return work(connection)
        finally:
            connection.exec_driver_sql("ROLLBACK")
