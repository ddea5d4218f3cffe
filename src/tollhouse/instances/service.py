"""An instance among others: it shows that it lives, and declares lost those that do not any more."""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from tollhouse import __version__
from tollhouse.instances import store
from tollhouse.instances.lease import Lease
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.waiting import is_set_within
from tollhouse.storage.migrate import functions_digest

CHANNEL = "tollhouse_keys"
"""Where changes of keys are told at once; a notification that is lost costs one beat."""

_BEAT_EVERY_S = 0.5
_LONGEST_TURN_S = 2 * _BEAT_EVERY_S
_QUERY_TIMEOUT_S = 5.0
_REMEMBERED_MS = 7 * 24 * 3600 * 1000
_FORGET_EVERY_BEATS = 7200
# InternalClientError: no host is the primary yet, or the server ended the connection just before a statement.
_OUT_OF_TOUCH = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_LOG = structlog.get_logger("tollhouse.instances")

Dial = Callable[[], Awaitable[asyncpg.Connection]]


class Membership:
    """This process among the instances of a database.

    Args:
        when_lost: called when another instance, or this one's former self, was found to be lost.
        when_keys_changed: called when service keys were made or revoked, here or elsewhere.
    """

    def __init__(
        self,
        dial: Dial,
        clock: Clock,
        lease: Lease,
        *,
        when_lost: Callable[[], None],
        when_keys_changed: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._lease = lease
        self._when_lost = when_lost
        self._when_keys_changed = when_keys_changed
        self._connection: asyncpg.Connection | None = None
        self._keys_version: str | None = None
        self._functions_digest = functions_digest()
        self._is_told = asyncio.Event()
        # Of each other epoch: the beat last seen, and for how long it has been watched since.
        self._seen: dict[int, tuple[int, float]] = {}
        self._watched_at_s = 0.0
        self._beats = 0
        # A name for people; the epoch is what counts.
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    async def join(self) -> None:
        """Register this instance; raises what the driver raises."""
        await self._connect()
        await self._register()

    async def leave(self) -> None:
        """Say that this instance has ended all it began."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            if not await connection.fetchval(store.STOP, self._lease.epoch, self._now(), timeout=_QUERY_TIMEOUT_S):
                _LOG.warning("calls were left under way; the other instances will hold them as unknown")
        except _OUT_OF_TOUCH as error:
            _LOG.warning("others will find out that this instance has stopped", reason=str(error))
        finally:
            connection.terminate()

    async def keep(self) -> None:
        """Beat, and watch the others; runs until cancelled."""
        while True:
            try:
                await self._turn()
            except _OUT_OF_TOUCH as error:
                _LOG.warning("the other instances cannot be reached", reason=str(error) or repr(error))
                self._disconnect()
            except Exception:  # noqa: BLE001 - without beats this instance would be lost to a defect here
                _LOG.exception("a beat failed on a defect")
                self._disconnect()
            self._is_told.clear()
            await is_set_within(self._is_told, _BEAT_EVERY_S)

    async def _turn(self) -> None:
        if self._connection is None:
            await self._connect()
        assert self._connection is not None
        sent_at_s = self._clock.monotonic_s()
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            seen = await store.beat(self._connection, self._lease.epoch, self._now())
        if seen is None:
            _LOG.error("this instance was declared lost, and begins anew; its calls in flight are held as unknown")
            await self._register()
            self._when_lost()
            return
        self._lease.renew(sent_at_s)
        if seen.functions_digest != self._functions_digest and not self._lease.is_over:
            _LOG.error("the database was migrated to another version; this instance takes no calls until it is updated")
            self._lease.end()
        if seen.keys_version != self._keys_version:
            self._when_keys_changed()
            self._keys_version = seen.keys_version
        await self._watch()
        self._beats += 1
        if self._beats % _FORGET_EVERY_BEATS == 0:
            await self._connection.execute(store.FORGET, utc_text(self._clock.now_ms() - _REMEMBERED_MS))

    async def _register(self) -> None:
        assert self._connection is not None
        sent_at_s = self._clock.monotonic_s()
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            epoch = await store.register(self._connection, self._name, __version__, self._now())
        self._lease.begin(epoch, sent_at_s)
        _LOG.info("registered", instance=self._name, epoch=epoch)

    async def _watch(self) -> None:
        """Declare lost whose beat has not moved for the whole of a lease, under our eyes."""
        assert self._connection is not None
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            found = await store.others(self._connection, self._lease.epoch)
        now_s = self._clock.monotonic_s()
        # Time in which this process did not watch, as it was paused itself, proves nothing of the others.
        passed_s = min(now_s - self._watched_at_s, _LONGEST_TURN_S)
        self._watched_at_s = now_s
        seen = {}
        for epoch, beat, name in found:
            before, watched_s = self._seen.get(epoch, (None, 0.0))
            watched_s = watched_s + passed_s if before == beat else 0.0
            seen[epoch] = (beat, watched_s)
            # At random, so that not every instance tries at once.
            if watched_s > self._lease.lease_s * random.uniform(1.0, 1.1):  # noqa: S311 - no secret
                await self._declare_lost(epoch, beat, name)
        self._seen = seen

    async def _declare_lost(self, epoch: int, beat: int, name: str) -> None:
        assert self._connection is not None
        async with asyncio.timeout(_QUERY_TIMEOUT_S * 2):
            was_declared = await self._connection.fetchval(store.DECLARE_LOST, epoch, beat, self._now())
        if was_declared:
            _LOG.warning("an instance is lost; its calls in flight are held as unknown", instance=name, epoch=epoch)
            self._when_lost()

    async def _connect(self) -> None:
        async with asyncio.timeout(_QUERY_TIMEOUT_S * 2):
            connection = await self._dial()
        try:
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                await connection.add_listener(CHANNEL, self._tell)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        # What was not watched has to be watched anew: the others may not have reached the database either.
        self._seen = {}

    def _tell(self, *_: Any) -> None:
        self._is_told.set()

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    def _now(self) -> str:
        return utc_text(self._clock.now_ms())
