"""Control-plane work on threads: a bounded number at a time, a bounded number that waits, and nobody for ever."""

import asyncio
import os
import socket
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
import structlog

from tollhouse.errors import Unavailable
from tollhouse.storage.postgres.control import is_the_servers_trouble, open_engine, read_snapshot, write
from tollhouse.storage.postgres.failures import unavailable

T = TypeVar("T")

_STOPPING = "the service is stopping; try again shortly"
_MAX_WAITING = 1000
# Reports may take a while; what takes longer than this is no work of a service.
_LONGEST_S = 60
_CLOSING_S = 5.0
_LOG = structlog.get_logger("tollhouse.storage")


class ControlPool:
    """A pool of threads, each with a connection of its own.

    Args:
        connections: how many pieces of work run at a time.
        timeout_s: how long a statement waits for a lock, and work for a connection.
    """

    def __init__(self, url: str, *, connections: int, timeout_s: float) -> None:
        limits = {
            "lock_timeout": f"{round(timeout_s * 1000)}ms",
            "statement_timeout": f"{_LONGEST_S}s",
        }
        self.engine = open_engine(url, connections=connections, timeout_s=timeout_s, limits=limits)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="tollhouse-control")
        self._open: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()
        sa.event.listen(self.engine, "connect", lambda connection, _: self._open.add(connection))
        self._running: set[asyncio.Future[Any]] = set()
        self._is_closing = False

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """As ``Database.write``."""
        return await self._run(write, work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """As ``Database.read``."""
        return await self._run(read_snapshot, work)

    async def _run(
        self, run: Callable[[sa.Engine, Callable[[sa.Connection], T]], T], work: Callable[[sa.Connection], T]
    ) -> T:
        if self._is_closing:
            raise Unavailable(_STOPPING, retry_after_s=1)
        if len(self._running) >= _MAX_WAITING:
            raise Unavailable("too much waits for the database; try again shortly", retry_after_s=1)
        running = asyncio.get_running_loop().run_in_executor(self._threads, run, self.engine, work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        # The server ends its statements in time. One that does not answer at all is hung up on.
        done, _ = await asyncio.wait({running}, timeout=_LONGEST_S + 5)
        if not done:
            self._hang_up()
            running.add_done_callback(_seen)
            raise unavailable()
        if running.cancelled():
            # It had not begun when the pool was closed. Whoever waits for it was not cancelled.
            raise Unavailable(_STOPPING, retry_after_s=1)
        try:
            return running.result()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if not is_the_servers_trouble(error):
                raise
            _LOG.error("the database cannot be used", reason=str(getattr(error, "orig", None) or error))
            raise unavailable() from error

    async def close(self) -> None:
        """Let what runs end, for some seconds, and hang up on what does not."""
        self._is_closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=_CLOSING_S)
            for future in left:
                future.add_done_callback(_seen)
            if left:
                self._hang_up()
                await asyncio.wait(left, timeout=_CLOSING_S)
        self.engine.dispose()

    def _hang_up(self) -> None:
        """Shut the sockets of all connections, which wakes the threads that wait on them."""
        for connection in list(self._open):
            with suppress(OSError, psycopg.Error):
                copy = socket.socket(fileno=os.dup(connection.pgconn.socket))
                with copy:
                    copy.shutdown(socket.SHUT_RDWR)


def _seen(future: "asyncio.Future[Any]") -> None:
    """Take note of how something ended that nobody waits for any more."""
    if not future.cancelled() and (error := future.exception()) is not None:
        _LOG.warning("control-plane work ended after it was given up", reason=str(error))
