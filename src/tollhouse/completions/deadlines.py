"""Ending waits for the database when their calls' deadlines pass, with one timer for all of them.

A timer of its own for each call would be the dearest part of what the deadline costs it.
"""

import asyncio
from typing import Any

from tollhouse.errors import CallTimeout

_LOOK_EVERY_S = 0.05


class Deadlines:
    """Fails futures that are not done in time: within 50 ms after their deadlines."""

    def __init__(self) -> None:
        self._watched: dict[asyncio.Future[Any], float] = {}
        self._is_looking = False

    def watch(self, future: asyncio.Future[Any], deadline_s: float) -> None:
        """Have a future fail with CallTimeout unless it is done by a time of the running loop's clock."""
        self._watched[future] = deadline_s
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        left = {}
        for future, deadline_s in self._watched.items():
            if future.done():
                continue
            if deadline_s <= now_s:
                future.set_exception(CallTimeout("the call's deadline passed while it waited for the database"))
            else:
                left[future] = deadline_s
        self._watched = left
        self._is_looking = bool(left)
        if left:
            loop.call_later(_LOOK_EVERY_S, self._look)
