"""PostgreSQL as ``Database``, for one instance of many.

Two lanes carry the hot path, one for admissions and one for endings, so that neither waits for the other's commit.
The control plane's statements run on threads, over a pool of their own.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
import structlog

from tollhouse.errors import StartError, Unavailable
from tollhouse.storage.postgres.control import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS,
    SETTINGS,
    check_schema,
    is_the_servers_trouble,
    open_engine,
    read_snapshot,
    shown,
    write,
)
from tollhouse.storage.postgres.failures import unavailable
from tollhouse.storage.postgres.lane import BatchStatement, Lane

T = TypeVar("T")

_LOG = structlog.get_logger("tollhouse.storage")

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
        self._engine: sa.Engine | None = None
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="tollhouse-control")

    def handle(self, lane: str, statements: Mapping[type[object], BatchStatement]) -> None:
        """Have operations carried out by statements, on the lane of a name; to be called before ``open_lanes``."""
        self._statements.setdefault(lane, {}).update(statements)

    async def open(self) -> None:
        """Connect the control plane.

        Raises:
            StartError: the server cannot be reached, or its schema is not this version's.
        """
        self._engine = open_engine(self._url, timeout_s=self._timeout_s)
        await asyncio.to_thread(check_schema, self._engine, self._url)

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
        self._threads.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()

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
        return await self._on_a_thread(write, work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._on_a_thread(read_snapshot, work)

    async def _on_a_thread(
        self, run: Callable[[sa.Engine, Callable[[sa.Connection], T]], T], work: Callable[[sa.Connection], T]
    ) -> T:
        assert self._engine is not None, "the database is not open"
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run, self._engine, work)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if not is_the_servers_trouble(error):
                raise
            _LOG.error("the database cannot be used", reason=str(getattr(error, "orig", None) or error))
            raise unavailable() from error
        except RuntimeError as error:
            # The threads are gone once it is closed.
            raise Unavailable("the service is stopping; try again shortly", retry_after_s=1) from error
