"""What only the garbage collector could free."""

import gc
from collections.abc import Awaitable, Callable

_ROUNDS = 12


async def garbage_of(work: Callable[[], Awaitable[object]]) -> int:
    """Return how many objects a piece of work leaves to the collector.

    That is the least of several rounds: other threads of the process leave something now and then, but the work itself
    leaves it each time.
    """
    await work()
    gc.collect()
    # What there is already is not looked through again and again.
    gc.freeze()
    try:
        least = await _round(work)
        for _ in range(_ROUNDS):
            if not least:
                break
            least = min(least, await _round(work))
        return least
    finally:
        gc.unfreeze()


async def _round(work: Callable[[], Awaitable[object]]) -> int:
    gc.collect()
    gc.disable()
    try:
        await work()
        return gc.collect()
    finally:
        gc.enable()
