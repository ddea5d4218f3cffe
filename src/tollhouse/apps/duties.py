"""What a process does all the time, beside what it is asked for: each such duty is begun again if a defect ends it."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import structlog

from tollhouse.kit.clock import Clock

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# Longer than any duty rests between its rounds: one that fails at each of them is not sound in between.
_SOUND_AFTER_S = 120.0
_LOG = structlog.get_logger("tollhouse.duties")


class Duty(msgspec.Struct, frozen=True):
    """Something that is to be done for as long as the process runs.

    Attributes:
        name: what log, metrics and ``/health`` call it.
        run: does it until cancelled; it expects what may happen, so that whatever it raises is a defect.
    """

    name: str
    run: Callable[[], Awaitable[None]]


class Duties:
    """Keeps duties running.

    Attributes:
        defects: how many each has ended on.
    """

    def __init__(self, clock: Clock) -> None:
        self.defects: Counter[str] = Counter()
        self._clock = clock
        # Those that a defect has ended, and when they are taken to be sound again.
        self._sound_at_s: dict[str, float] = {}

    @property
    def unsound(self) -> list[str]:
        """Those that a defect has ended, and that have not been running for long since."""
        now_s = self._clock.monotonic_s()
        return sorted(name for name, at_s in self._sound_at_s.items() if now_s < at_s)

    @contextmanager
    def keeping(self, duties: Sequence[Duty]) -> Iterator[None]:
        """Run duties beside what is done in the context."""
        running = asyncio.create_task(self.keep(duties))
        try:
            yield
        finally:
            running.cancel()

    async def keep(self, duties: Sequence[Duty]) -> None:
        """Run duties until cancelled; none is ended by another's defect."""
        for duty in duties:
            self.defects[duty.name] += 0
        await asyncio.gather(*map(self._keep, duties))

    async def _keep(self, duty: Duty) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await duty.run()
            except asyncio.CancelledError as error:
                if _is_to_end():
                    raise
                # Something that it waited for was cancelled, and not the duty.
                defect: BaseException = error
            except Exception as error:  # noqa: BLE001 - logged, and the duty is begun again
                if _is_to_end():
                    # Begun again it would never end: what has cancelled it does so once.
                    _LOG.error("a duty was to end, and did so on a defect", duty=duty.name, exc_info=error)
                    return
                defect = error
            else:
                # There is nothing to do for it.
                return
            if self._clock.monotonic_s() - began_s >= _SOUND_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            self.defects[duty.name] += 1
            self._sound_at_s[duty.name] = math.inf
            _LOG.error("a duty ended on a defect and is begun again", duty=duty.name, pause_s=pause_s, exc_info=defect)
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            self._sound_at_s[duty.name] = self._clock.monotonic_s() + _SOUND_AFTER_S


def _is_to_end() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
