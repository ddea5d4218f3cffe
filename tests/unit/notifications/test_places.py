"""Places of those who follow: exact in a rush, shared among tenants, and given back however following ends."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tollhouse.config.events import Events
from tollhouse.errors import EventsGone, RateLimited, TollhouseError, Unavailable
from tollhouse.events.feed import Follower
from tollhouse.events.model import Selection
from tollhouse.keys.model import Principal
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.request import read_request
from tollhouse.notifications.service import Notifications

OF_42 = Grant("key_1", frozenset({"42"}))
OF_43 = Grant("key_1", frozenset({"43"}))
OF_BOTH = Grant("key_2", frozenset({"42", "43"}))
OF_ALL = Grant.of(Principal("admin", "admin", "super-admin", None))
FOLLOW = read_request([], b"")


class SlowFeed:
    """A feed that is asked where it is, and takes its time to say so."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.problem: TollhouseError | None = None

    async def follow(self, selection: Selection, after: int | None) -> Follower:
        await self.may_answer.wait()
        if self.problem is not None:
            raise self.problem
        return Follower(self, selection, 0)  # type: ignore[arg-type]

    def leave(self, follower: Follower) -> None:
        """Nothing is kept of it here."""


class Lobby:
    """Those who follow, or ask to."""

    def __init__(self, keyring: Any, clock: Any, **settings: Any) -> None:
        self.feed = SlowFeed()
        self._notifications = Notifications(self.feed, keyring, clock, Events(**settings))  # type: ignore[arg-type]

    async def enter(self, stack: AsyncExitStack, *grants: Grant) -> list[str]:
        """Ask at once, before the feed answers; return which got in, or were told what."""
        entering = [
            asyncio.create_task(stack.enter_async_context(self._notifications.following(FOLLOW, grant)))
            for grant in grants
        ]
        await asyncio.sleep(0)
        self.feed.may_answer.set()
        outcomes = await asyncio.gather(*entering, return_exceptions=True)
        return ["in" if isinstance(each, Follower) else type(each).__name__ for each in outcomes]


@pytest.fixture
def lobby(keyring, clock):
    def make(**settings: Any) -> Lobby:
        return Lobby(keyring, clock, **settings)

    return make


def test_no_more_get_in_than_there_are_places_however_many_ask_at_once(lobby):
    async def main() -> None:
        crowd = lobby(max_clients=3)
        async with AsyncExitStack() as stack:
            assert await crowd.enter(stack, *[OF_42] * 10) == ["in"] * 3 + ["Unavailable"] * 7
        async with AsyncExitStack() as stack:
            assert await crowd.enter(stack, *[OF_43] * 3) == ["in"] * 3

    asyncio.run(main())


def test_a_tenant_has_its_share_and_leaves_the_others_theirs(lobby):
    async def main() -> None:
        crowd = lobby(max_clients=6, max_clients_per_tenant=2)
        async with AsyncExitStack() as stack:
            assert await crowd.enter(stack, *[OF_42] * 4) == ["in"] * 2 + ["RateLimited"] * 2
            # Who follows both counts for neither, and who follows all for themselves too.
            assert await crowd.enter(stack, OF_43, OF_BOTH, OF_ALL, OF_ALL, OF_ALL) == ["in"] * 4 + ["RateLimited"]
            assert await crowd.enter(stack, OF_43) == ["Unavailable"]

    asyncio.run(main())


def test_the_refused_are_told_whose_places_are_taken_and_when_to_come_again(keyring, clock):
    async def main() -> None:
        for settings, error, told in (
            ({"max_clients_per_tenant": 1}, RateLimited, "all 1 places of tenant 42 to follow events are taken"),
            ({"max_clients": 1}, Unavailable, "all 1 places to follow events are taken"),
        ):
            crowd = Lobby(keyring, clock, **settings)
            async with AsyncExitStack() as stack:
                assert await crowd.enter(stack, OF_42) == ["in"]
                with pytest.raises(error, match=told) as refused:
                    await stack.enter_async_context(crowd._notifications.following(FOLLOW, OF_42))
                assert refused.value.retry_after_s == 5

    asyncio.run(main())


def test_whoever_could_not_begin_to_follow_gives_the_place_back(lobby):
    async def main() -> None:
        crowd = lobby(max_clients=1)
        crowd.feed.problem = EventsGone("long gone")
        async with AsyncExitStack() as stack:
            assert await crowd.enter(stack, OF_42) == ["EventsGone"]
        crowd.feed.problem = None
        crowd.feed.may_answer.clear()
        waiting = asyncio.create_task(crowd._notifications.following(FOLLOW, OF_42).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        async with AsyncExitStack() as stack:
            assert await crowd.enter(stack, OF_42) == ["in"]

    asyncio.run(main())
