"""What only the garbage collector could free."""

import gc
from collections.abc import Awaitable, Callable

_ROUNDS = 4


async def garbage_of(work: Callable[[], Awaitable[object]]) -> int:
    """Return how many objects a piece of work leaves to the collector.

    That is the least of several rounds: other threads of the process leave something now and then, but the work itself
    leaves it each time.
    """
    await work()
    found = []
    for _ in range(_ROUNDS):
        gc.collect()
        gc.disable()
        try:
            await work()
            found.append(gc.collect())
        finally:
            gc.enable()
    return min(found)
