"""Waiting for what may come, for so long and no longer."""

import asyncio


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most for so many seconds; return whether it is set.

    ``asyncio.wait_for`` is not used: before Python 3.12 it loses a cancellation that comes as the event is set, and a
    duty that is stopped then goes on for ever (https://github.com/python/cpython/issues/86296).
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
