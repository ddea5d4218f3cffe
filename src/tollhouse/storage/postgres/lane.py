"""Group commit on PostgreSQL: one connection that carries out one batch after the other.

What is submitted while a batch runs waits for the next one, which takes all of it. Each batch is one statement and so
one round trip, with its commit: no lock is held while anybody waits for the network or for this process.

A connection that breaks leaves it open whether its batch was committed. That is found out by looking, once the server
process that may still be at it has ended.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import structlog

from tollhouse.errors import InternalError, Unavailable
from tollhouse.storage.database import is_given_up
from tollhouse.storage.postgres.failures import (
    ENDED_BEFORE,
    OTHER_EPOCH,
    Meaning,
    epoch_lost,
    is_read_only,
    meaning_of,
    sqlstate_of,
    unavailable,
    undecided,
)

_MAX_WAITING = 50_000
_FULL_BATCH = 512
# As on SQLite: what arrives in one turn of the loop is submitted in the next.
_QUIET_TURNS = 3
_RETRIES = 5
_RECONNECT_S = (0.05, 1.0)
_SWEEPS_PER_PATIENCE = 10
_LOG = structlog.get_logger("tollhouse.storage")

Dial = Callable[[], Awaitable[asyncpg.Connection]]
"""Opens a connection; raises OSError, TimeoutError or asyncpg's errors."""


class BatchStatement(Protocol):
    """How operations of one type are carried out."""

    waits_for_connection: bool
    """Whether operations wait for a lost connection to be made again; others are refused at once meanwhile."""

    async def run(self, connection: asyncpg.Connection, operations: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Carry them out in one transaction; return an outcome for each, an exception for one that is refused."""

    async def look(self, connection: asyncpg.Connection, operations: Sequence[Any]) -> Sequence[Any]:
        """Return the outcome of each operation that was committed before, and None for the others."""

    def late(self, operation: Any, outcome: Any) -> None:
        """Take the outcome of an operation whose submitter was told ``Undecided``."""


class _Job:
    __slots__ = ("future", "is_late", "is_overdue", "operation", "since_s")

    def __init__(self, operation: object, future: "asyncio.Future[Any]", since_s: float) -> None:
        self.operation = operation
        self.future = future
        self.since_s = since_s
        self.is_overdue = False
        self.is_late = False


class Lane:
    """Carries out what is submitted, over a connection that it makes again whenever it breaks."""

    def __init__(
        self, name: str, dial: Dial, statements: Mapping[type[object], BatchStatement], *, patience_s: float
    ) -> None:
        """``patience_s``: how long a submitter waits before it is told that the database does not answer."""
        self._name = name
        self._dial = dial
        self._statements = statements
        self._patience_s = patience_s
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._connection: asyncpg.Connection | None = None
        self._backend: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Connect for the first time, and begin; raises what dialling raises."""
        await self._connect()
        self._task = asyncio.create_task(self._work(), name=f"tollhouse-{self._name}")
        self._sweep = self._loop.call_later(self._patience_s / _SWEEPS_PER_PATIENCE, self._expire)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    def submit(self, operation: object) -> "asyncio.Future[Any]":
        if self._is_closing:
            raise Unavailable("the service is stopping; try again shortly", retry_after_s=1)
        if len(self._waiting) >= _MAX_WAITING:
            raise Unavailable("too many calls wait for the ledger; try again shortly", retry_after_s=1)
        if self._connection is None and not self._statements[type(operation)].waits_for_connection:
            raise unavailable()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Job(operation, future, self._loop.time()))
        self._wake.set()
        return future

    async def close(self) -> None:
        """Carry out what waits, as far as the database allows within the patience, and disconnect."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=self._patience_s)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
            for job in (*self._running, *self._waiting):
                self._deliver(job, unavailable())
        if self._sweep is not None:
            self._sweep.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    # The work.

    async def _work(self) -> None:
        while self._waiting or not self._is_closing:
            if self._connection is None:
                await self._reconnect()
                continue
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._gather()
            self._running, self._waiting = self._waiting[:_FULL_BATCH], self._waiting[_FULL_BATCH:]
            by_type: dict[type[object], list[_Job]] = {}
            for job in self._running:
                by_type.setdefault(type(job.operation), []).append(job)
            for operation_type, jobs in by_type.items():
                await self._carry_out(self._statements[operation_type], jobs)
            self._running = []

    async def _gather(self) -> None:
        """Wait as long as the loop still has more to put into the batch: all that share it share one commit."""
        seen, quiet_turns = len(self._waiting), 0
        while quiet_turns < _QUIET_TURNS and seen < _FULL_BATCH:
            await asyncio.sleep(0)
            quiet_turns = quiet_turns + 1 if len(self._waiting) == seen else 0
            seen = len(self._waiting)

    async def _carry_out(self, statement: BatchStatement, jobs: list[_Job]) -> None:
        """Carry out jobs of one type, and tell each what came of it."""
        for _ in range(_RETRIES):
            connection = self._connection or await self._reconnect()
            try:
                outcomes = await statement.run(connection, [job.operation for job in jobs], self._patience_s * 2)
            except Exception as error:  # noqa: BLE001 - whatever it is, every submitter has to be told
                match meaning_of(error):
                    case Meaning.REFUSED:
                        await self._isolate(statement, jobs, error)
                        return
                    case Meaning.RETRIED:
                        await asyncio.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - no secret
                        continue
                    case Meaning.EPOCH_LOST:
                        outcomes = [epoch_lost() for _ in jobs]
                    case Meaning.CANNOT_WRITE:
                        _LOG.error("the database cannot be written", reason=str(error), operations=len(jobs))
                        if is_read_only(error):
                            self._disconnect()
                        outcomes = [unavailable() for _ in jobs]
                    case Meaning.UNDECIDED:
                        _LOG.warning("the connection to the database broke", lane=self._name, reason=repr(error))
                        self._disconnect()
                        jobs = await self._find_out(statement, jobs)
                        if not jobs:
                            return
                        if statement.waits_for_connection:
                            continue
                        outcomes = [unavailable() for _ in jobs]
            for job, outcome in zip(jobs, outcomes, strict=True):
                self._deliver(job, outcome)
            return
        for job in jobs:
            self._deliver(job, unavailable())

    async def _isolate(self, statement: BatchStatement, jobs: list[_Job], error: Exception) -> None:
        """An operation broke a rule of the schema: it fails alone, in a transaction of its own."""
        if len(jobs) > 1:
            for job in jobs:
                await self._carry_out(statement, [job])
            return
        (job,) = jobs
        if sqlstate_of(error) == OTHER_EPOCH:
            self._deliver(job, epoch_lost())
            return
        if sqlstate_of(error) == ENDED_BEFORE:
            # Two instances that reconcile, or let outcomes expire, meet like this: the second comes too late.
            self._deliver(job, InternalError("the attempt was ended before; nothing was changed"))
            return
        _LOG.error("an operation was refused by the database", operation=type(job.operation).__name__, exc_info=error)
        failure = InternalError("the ledger refused an inconsistent entry; nothing was changed")
        failure.__cause__ = error
        self._deliver(job, failure)

    async def _find_out(self, statement: BatchStatement, jobs: list[_Job]) -> list[_Job]:
        """Tell the submitters of what was committed; return the jobs that were not."""
        while True:
            connection = await self._reconnect()
            try:
                async with asyncio.timeout(self._patience_s * 2):
                    found = await statement.look(connection, [job.operation for job in jobs])
            except Exception as error:  # noqa: BLE001 - looked again, until there is an answer
                _LOG.warning("what was committed cannot be found out yet", lane=self._name, reason=repr(error))
                self._disconnect()
                await asyncio.sleep(_RECONNECT_S[0])
                continue
            left = []
            for job, outcome in zip(jobs, found, strict=True):
                if outcome is None:
                    left.append(job)
                else:
                    self._deliver(job, outcome)
            return left

    def _deliver(self, job: _Job, outcome: Any) -> None:
        future = job.future
        if future.done():
            if job.is_overdue or (not job.is_late and is_given_up(future)):
                job.is_overdue = False
                job.is_late = True
                try:
                    self._statements[type(job.operation)].late(job.operation, outcome)
                except Exception:  # noqa: BLE001 - a defect there must not end the lane, which all calls go by
                    _LOG.exception("a late outcome was lost on a defect", operation=type(job.operation).__name__)
        elif isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    # The connection.

    async def _reconnect(self) -> asyncpg.Connection:
        """Make the connection again, however long it takes."""
        pause_s = _RECONNECT_S[0]
        while True:
            try:
                return await self._connect()
            except Exception as error:  # noqa: BLE001 - whatever keeps it from connecting, it is tried again
                _LOG.warning("the database cannot be reached", lane=self._name, reason=str(error) or repr(error))
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - no secret
            pause_s = min(pause_s * 2, _RECONNECT_S[1])

    async def _connect(self) -> asyncpg.Connection:
        connection = await self._dial()
        try:
            async with asyncio.timeout(self._patience_s * 2):
                await self._await_end_of_predecessor(connection)
                self._backend = await _backend_of(connection)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._forget)
        self._connection = connection
        return connection

    async def _await_end_of_predecessor(self, connection: asyncpg.Connection) -> None:
        """A server process whose connection broke may not know it yet, and commit: it is ended first."""
        if self._backend is None:
            return
        pid, started_at = self._backend
        give_up_s = self._loop.time() + self._patience_s
        while await connection.fetchval(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2",
            pid,
            started_at,
        ):
            if self._loop.time() > give_up_s:
                raise TimeoutError(f"server process {pid} does not end")
            await asyncio.sleep(0.01)

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    def _forget(self, connection: asyncpg.Connection) -> None:
        """Notice a connection that broke while nothing ran on it: it is made again before somebody needs it."""
        if self._connection is connection:
            self._connection = None
            self._wake.set()

    # Patience.

    def _expire(self) -> None:
        """Tell those who have waited too long; what has not begun never will."""
        overdue_s = self._loop.time() - self._patience_s
        for job in self._running:
            if job.since_s < overdue_s and not job.future.done():
                job.is_overdue = True
                job.future.set_exception(undecided())
        kept = []
        for job in self._waiting:
            if job.since_s < overdue_s:
                self._deliver(job, unavailable())
            else:
                kept.append(job)
        self._waiting = kept
        self._sweep = self._loop.call_later(self._patience_s / _SWEEPS_PER_PATIENCE, self._expire)


async def _backend_of(connection: asyncpg.Connection) -> tuple[int, str]:
    """Return the number and the start of the server process behind a connection.

    Raises:
        ConnectionError: the server is a standby. What was committed may not have reached it yet: looked for there, it
            would seem undone.
    """
    pid, started_at, is_standby = await connection.fetchrow(
        "SELECT pid, backend_start::text, pg_is_in_recovery() FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    )
    if is_standby:
        raise ConnectionError("the server is a standby; expected the primary")
    return pid, started_at
