"""Hedging: a second attempt at the same candidate, begun when the first takes unusually long; the sooner answer counts.

Both are admitted, reserved and entered in the ledger like any attempt. The slower one is not broken off, since that
would leave its cost unknown: it runs to its end in the background, and is settled at what it cost.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tollhouse.completions.call import Answer, Call
from tollhouse.completions.dispatch import Failed
from tollhouse.completions.models import Candidate

T = TypeVar("T")

# At most a tenth of the calls is begun twice: a provider that gets slow as a whole must not get twice the load.
_SHARE = 0.1
_MOST_AT_ONCE = 10.0


class Hedging:
    """Decides which calls are begun twice, and when: those with an idempotency key, and a low ceiling.

    Args:
        max_nano_usd: the highest ceiling.
    """

    def __init__(self, max_nano_usd: int) -> None:
        self._max_nano_usd = max_nano_usd
        self._credit = 0.0

    def delay_s(self, call: Call, candidate: Candidate) -> float | None:
        """Return the seconds after which a second attempt is due; None for a call that is not begun twice."""
        if call.claim is None or call.question.is_stream or call.ceiling_nano_usd > self._max_nano_usd:
            return None
        self._credit = min(self._credit + _SHARE, _MOST_AT_ONCE)
        return None if candidate.latency is None else candidate.latency.value_s()

    def take(self) -> bool:
        """Whether another call may be begun twice now."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


class Race:
    """Two attempts of one call, of which the first to be answered has won: it alone answers the idempotency key.

    One that fails is entered once the other is over too: only then is it known whether the key's outcome is lost.
    """

    def __init__(self) -> None:
        self.is_won = False
        self._under_way = 1
        self._failed = 0
        self._decided = asyncio.Event()

    @property
    def is_decided(self) -> bool:
        """Whether one was answered, or all that were begun have failed."""
        return self._decided.is_set()

    def join(self) -> None:
        """The second attempt is begun."""
        self._under_way += 1

    def win(self) -> bool:
        """An attempt was answered; return whether it is the first."""
        is_first = not self.is_won
        self.is_won = True
        self._decided.set()
        return is_first

    def drop(self) -> None:
        """An attempt has ended without an answer."""
        self._failed += 1
        if self._failed == self._under_way:
            self._decided.set()

    async def lose(self) -> bool:
        """An attempt has failed; return, once the race is decided, whether the other one was answered."""
        self.drop()
        await self._decided.wait()
        return self.is_won


class Background:
    """Attempts that go on without anybody waiting for their answers."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that goes on even if whoever started it leaves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, timeout_s: float) -> None:
        """Wait until all have ended, or for so long; what is left then is held as unknown by the next start."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)


def better(outcomes: list[Answer | Failed]) -> Answer | Failed:
    """Return what the caller is told of two attempts: an answer; or a failure, one that ends the call before others."""
    return min(outcomes, key=lambda outcome: 1 + outcome.may_go_on if isinstance(outcome, Failed) else 0)
