"""PostgreSQL as ``Database``, for one instance of many.

Two lanes carry the hot path, one for admissions and one for endings, so that neither waits for the other's commit.
The control plane's statements run on threads, over a pool of their own.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa

from tollhouse.errors import StartError
from tollhouse.storage.postgres.control import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS,
    DUTY_CONNECTIONS,
    SETTINGS,
    check_schema,
    shown,
)
from tollhouse.storage.postgres.lane import BatchStatement, Lane
from tollhouse.storage.postgres.pool import ControlPool

T = TypeVar("T")

# The hot path touches a few rows of large tables by their keys; plans made while these were small must not last.
_LANE_SETTINGS = {
    **SETTINGS,
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}


class PostgresDatabase:
    """Open it inside the event loop that will use it.

    Args:
        url: ``postgresql://…``; several hosts with ``target_session_attrs=read-write`` follow a failover.
        timeout_s: how long a caller waits for the database before it is told 503.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, name: str = "tollhouse") -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._name = name
        self._lanes: dict[type[object], Lane] = {}
        self._statements: dict[str, dict[type[object], BatchStatement]] = {}
        self._open_lanes: list[Lane] = []
        self._control: ControlPool | None = None
        self._duties: ControlPool | None = None
        self._set_aside: list[ControlPool] = []

    def handle(self, lane: str, statements: Mapping[type[object], BatchStatement]) -> None:
        """Have operations carried out by statements, on the lane of a name; to be called before ``open_lanes``."""
        self._statements.setdefault(lane, {}).update(statements)

    async def open(self) -> None:
        """Connect the control plane.

        Raises:
            StartError: the server cannot be reached, or its schema is not this version's.
        """
        self._control = ControlPool(self._url, connections=CONNECTIONS, timeout_s=self._timeout_s)
        await asyncio.to_thread(check_schema, self._control.engine, self._url)
        self._duties = ControlPool(self._url, connections=DUTY_CONNECTIONS, timeout_s=self._timeout_s)

    async def open_lanes(self) -> None:
        """Connect the hot path; raises StartError."""
        for name, statements in self._statements.items():
            lane = Lane(name, self.dial, statements, patience_s=self._timeout_s)
            try:
                await lane.open()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise StartError(f"{shown(self._url)}: cannot be used as a database: {error}") from error
            self._open_lanes.append(lane)
            self._lanes |= dict.fromkeys(statements, lane)

    async def dial(self) -> asyncpg.Connection:
        """Open a connection for set-based statements; raises what the driver raises."""
        return await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={**_LANE_SETTINGS, "application_name": self._name, **self._limits()},
            command_timeout=self._timeout_s * 2,
            statement_cache_size=100,
            max_cached_statement_lifetime=0,
        )

    def _limits(self) -> dict[str, str]:
        return {
            "lock_timeout": f"{round(self._timeout_s * 1000)}ms",
            "statement_timeout": f"{round(self._timeout_s * 2000)}ms",
        }

    async def close(self) -> None:
        """Carry out what waits, and disconnect; what is submitted from now on is refused."""
        # In their order: what is admitted while the first one ends still finds the other one open.
        for lane in self._open_lanes:
            await lane.close()
        for pool in (self._control, self._duties, *self._set_aside):
            if pool is not None:
                await pool.close()

    @property
    def waiting(self) -> int:
        return sum(lane.waiting for lane in self._open_lanes)

    @property
    def is_connected(self) -> bool:
        """Whether every lane has its connection."""
        return all(lane.is_connected for lane in self._open_lanes)

    def submit(self, operation: object) -> "asyncio.Future[Any]":
        return self._lanes[type(operation)].submit(operation)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        assert self._control is not None, "the database is not open"
        return await self._control.write(work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        assert self._control is not None, "the database is not open"
        return await self._control.read(work)

    @property
    def reserved(self) -> "Reserved":
        """The same database, over connections that requests cannot use up."""
        assert self._duties is not None, "the database is not open"
        return Reserved(self, self._duties)

    def set_aside(self, connections: int) -> "Reserved":
        """Return the same database, over up to so many connections that nobody else uses; opened as they are needed."""
        pool = ControlPool(self._url, connections=connections, timeout_s=self._timeout_s)
        self._set_aside.append(pool)
        return Reserved(self, pool)


class Reserved:
    """A database over connections of one's own: no number of slow requests keeps one from it."""

    def __init__(self, database: PostgresDatabase, pool: ControlPool) -> None:
        self._database = database
        self._pool = pool

    @property
    def waiting(self) -> int:
        return self._database.waiting

    def submit(self, operation: object) -> "asyncio.Future[Any]":
        return self._database.submit(operation)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._pool.write(work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._pool.read(work)
