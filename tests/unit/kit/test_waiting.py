"""Waiting for an event."""

import asyncio

import pytest

from tollhouse.kit.waiting import is_set_within

pytestmark = pytest.mark.engine("sqlite")


def test_it_is_waited_for_no_longer_than_said():
    async def work() -> None:
        event = asyncio.Event()
        assert not await is_set_within(event, 0.001)
        asyncio.get_running_loop().call_soon(event.set)
        assert await is_set_within(event, 60)
        assert await is_set_within(event, 0)

    asyncio.run(work())


@pytest.mark.parametrize("is_set_first", [True, False])
def test_a_cancellation_that_comes_with_the_event_is_not_lost(is_set_first):
    async def work() -> None:
        event = asyncio.Event()
        waiting = asyncio.create_task(is_set_within(event, 60))
        await asyncio.sleep(0)
        for do in (event.set, waiting.cancel) if is_set_first else (waiting.cancel, event.set):
            do()
        await asyncio.wait({waiting})
        assert waiting.cancelled()

    asyncio.run(work())
