"""One reader of the table for a whole process, and those who follow it.

A follower holds a position and a bounded handful of events that it has not taken yet. One that falls behind loses the
handful and reads on from the table by itself, at its own pace: no slow follower costs memory, and none misses anything.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Self

import sqlalchemy as sa
import structlog

from tollhouse.errors import EventsGone, Unavailable
from tollhouse.events import store
from tollhouse.events.model import EVERYTHING, Event, Head, Selection
from tollhouse.events.order import has_unplaced, place_what_waits
from tollhouse.storage.database import Database

_PAGE = 500
_MOST_WAITING = 256
# Followers that read from the table at once; the others wait their turn, so that they leave the database to others too.
_MOST_REPLAYING = 4
_AGAIN_S = 1.0
_LOG = structlog.get_logger("tollhouse.events")


class Feed:
    """Reads events as they come, as long as anybody follows.

    Args:
        gives_places: whether events get their places from readers, as where several connections write them.
        poll_s: how often it looks for new ones.

    Attributes:
        position: up to where it has read.
    """

    def __init__(self, database: Database, *, gives_places: bool, poll_s: float) -> None:
        self.position = 0
        self._database = database
        self._gives_places = gives_places
        self._poll_s = poll_s
        self._by_tenant: dict[str, set[Follower]] = {}
        self._of_all_tenants: set[Follower] = set()
        self._followers: set[Follower] = set()
        self._is_followed = asyncio.Event()
        self._is_live = asyncio.Event()
        self._replaying = asyncio.Semaphore(_MOST_REPLAYING)
        self._is_closed = False

    @property
    def followers(self) -> int:
        return len(self._followers)

    async def keep_reading(self) -> None:
        """Read until cancelled."""
        while True:
            await self._is_followed.wait()
            try:
                self.position = (await self.head()).last_position
                self._is_live.set()
                while self._followers:
                    if await self._read_on() < _PAGE:
                        await asyncio.sleep(self._poll_s)
            except Unavailable as error:
                _LOG.warning("events are read later", reason=error.message)
                await asyncio.sleep(_AGAIN_S)
            finally:
                # Whatever ended it: it reads on from another place, and followers from where each of them is.
                self._is_live.clear()
                for follower in self._followers:
                    follower.fall_behind()

    async def head(self) -> Head:
        """Return how far the order goes, with everything in it that is committed by now; raises Unavailable."""
        is_any, head = await self._database.read(
            lambda connection: (self._gives_places and has_unplaced(connection), store.head(connection))
        )
        if not is_any:
            return head
        await place_what_waits(self._database)
        return await self._database.read(store.head)

    async def _read_on(self) -> int:
        is_any, events = await self._database.read(self._look)
        if is_any:
            await place_what_waits(self._database)
            _, events = await self._database.read(self._look)
        for event in events:
            for followers in (self._by_tenant.get(event.tenant_id, ()), self._of_all_tenants):
                for follower in followers:
                    follower.offer(event)
        if events:
            self.position = events[-1].position
        return len(events)

    def _look(self, connection: sa.Connection) -> tuple[bool, list[Event]]:
        """Return whether some have no place yet, and those that have."""
        is_any = self._gives_places and has_unplaced(connection)
        return is_any, store.following(connection, EVERYTHING, after=self.position, limit=_PAGE)

    async def replay(self, selection: Selection, *, after: int, through: int) -> list[Event]:
        """Return a page of events from the table; raises EventsGone, Unavailable."""
        async with self._replaying:
            found, events = await self._database.read(
                lambda connection: (
                    store.head(connection),
                    store.following(connection, selection, after=after, through=through, limit=_PAGE),
                )
            )
        check(after, found)
        return events

    async def follow(self, selection: Selection, after: int | None) -> "Follower":
        """Follow from a position on, 0 being the oldest event that is kept; None: from now on.

        Raises:
            EventsGone: events after that position are deleted, or the position is none of this database's.
            Unavailable: the service is stopping, or the database cannot be read.
        """
        if self._is_closed:
            raise Unavailable("the service is stopping; connect again", retry_after_s=1)
        known = await self.head()
        if after is None:
            after = known.last_position
        elif after == 0:
            after = known.gone_position
        check(after, known)
        follower = Follower(self, selection, after)
        self._followers.add(follower)
        for tenant_id in selection.tenants or ():
            self._by_tenant.setdefault(tenant_id, set()).add(follower)
        if selection.tenants is None:
            self._of_all_tenants.add(follower)
        self._is_followed.set()
        return follower

    def leave(self, follower: "Follower") -> None:
        """Follow no longer."""
        self._followers.discard(follower)
        self._of_all_tenants.discard(follower)
        for tenant_id in follower.selection.tenants or ():
            others = self._by_tenant.get(tenant_id)
            if others is not None:
                others.discard(follower)
                if not others:
                    del self._by_tenant[tenant_id]
        if not self._followers:
            self._is_followed.clear()

    async def is_live(self) -> None:
        """Wait until ``position`` is that of the table's end, a moment ago."""
        await self._is_live.wait()

    def close(self) -> None:
        """Have all followers end: the process is to stop."""
        self._is_closed = True
        for follower in self._followers:
            follower.close()


class Follower:
    """Somebody's place in the feed; to be used as a context, whose end leaves the feed.

    Attributes:
        is_closed: the process stops, and no further event comes here.
    """

    def __init__(self, feed: Feed, selection: Selection, after: int) -> None:
        self.selection = selection
        self.is_closed = False
        self._feed = feed
        self._given = after
        self._waiting: deque[Event] = deque()
        self._has_some = asyncio.Event()
        # Up to where it reads from the table; None once it gets everything from the feed.
        self._through: int | None = None
        self._is_behind = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.leave(self)

    @property
    def position(self) -> int:
        """Up to where nothing is left to be given: what a client that comes back should say."""
        if self._is_behind or self._through is not None or self._waiting:
            return self._given
        return max(self._given, self._feed.position)

    async def take(self, timeout_s: float) -> Sequence[Event]:
        """Return the events that follow, or none once ``timeout_s`` is over or the feed is closed.

        While the database cannot be read, it waits.

        Raises:
            EventsGone: they were deleted before they were taken.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_closed:
                    try:
                        events = await self.take_at_once() or await self._wait()
                    except Unavailable:
                        await asyncio.sleep(_AGAIN_S)
                        continue
                    if events:
                        self._given = events[-1].position
                        return events
        except TimeoutError:
            pass
        return ()

    async def take_at_once(self) -> Sequence[Event]:
        """Return what it has to read from the table by itself; none once all that follows comes from the feed.

        Raises:
            EventsGone: they were deleted before they were taken.
            Unavailable: the database cannot be read.
        """
        events: Sequence[Event] = ()
        while not events and not self.is_closed and (self._is_behind or self._through is not None):
            if self._is_behind or self._through is None:
                await self._feed.is_live()
                # From here on the feed offers what comes after this.
                self._is_behind = False
                self._waiting.clear()
                self._through = self._feed.position
            events = await self._replay(self._through)
        return events

    async def _replay(self, through: int) -> list[Event]:
        events = []
        if self._given < through:
            events = await self._feed.replay(self.selection, after=self._given, through=through)
        self._given = events[-1].position if events else max(self._given, through)
        if len(events) < _PAGE:
            self._through = None
        return events

    async def _wait(self) -> Sequence[Event]:
        """Wait for the feed to offer something, and return it."""
        if not self._waiting and not self.is_closed and not self._is_behind:
            self._has_some.clear()
            await self._has_some.wait()
        # What the client knew of may be further than the feed was.
        events = [event for event in self._waiting if event.position > self._given]
        self._waiting.clear()
        return events

    def offer(self, event: Event) -> None:
        """Give an event to it if it is among those it follows."""
        if self._is_behind or not self.selection.takes(event):
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.fall_behind()
        else:
            self._waiting.append(event)
            self._has_some.set()

    def fall_behind(self) -> None:
        """Read on from the table."""
        self._is_behind = True
        self._waiting.clear()
        self._has_some.set()

    def close(self) -> None:
        self.is_closed = True
        self._has_some.set()


def check(after: int, head: Head) -> None:
    """Raise EventsGone where reading on from a position would miss something."""
    if after < head.gone_position:
        raise EventsGone(
            f"events after position {after} are no longer kept: the oldest that is kept follows position "
            f"{head.gone_position}. Read the state of what you follow anew, and follow from there, or with after=0 "
            "from the oldest event"
        )
    if after > head.last_position:
        raise EventsGone(
            f"there is no position {after} yet: the newest event is at {head.last_position}, as after a backup was "
            "restored. Read the state of what you follow anew, and follow without a position"
        )
