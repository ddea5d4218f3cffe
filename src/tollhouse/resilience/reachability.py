"""Whether each provider can be reached: looked at in the background, by connections over which nothing is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from tollhouse.kit.clock import Clock, utc_text
from tollhouse.providers.base import ProviderError

Probe = Callable[[float], Awaitable[None]]
"""Reaches a provider within so many seconds, or raises ProviderError."""

_TIMEOUT_S = 2.0
_LOG = structlog.get_logger("tollhouse.providers")


class Reach(msgspec.Struct, frozen=True):
    """What a look at one provider found.

    Attributes:
        checked_at: ISO 8601 in UTC.
        error: why it could not be reached; None if it could.
    """

    checked_at: str
    error: str | None = None

    @property
    def is_reachable(self) -> bool:
        return self.error is None


class Reachability:
    """Looks at each provider in turn with the others, and never at one twice at the same time.

    Args:
        probes: by the provider's configured name.
        every_s: from the end of a look until the next.
    """

    def __init__(self, probes: Mapping[str, Probe], clock: Clock, every_s: float = 10.0) -> None:
        self._probes = probes
        self._clock = clock
        self._every_s = every_s
        self._latest: dict[str, Reach] = {}
        self._looking: asyncio.Task[None] | None = None

    async def keep_looking(self) -> None:
        """Look until cancelled, and log what changes."""
        while self._probes:
            before = self._latest
            await self.look()
            for name, reach in self._latest.items():
                was_reachable = name not in before or before[name].is_reachable
                if was_reachable and not reach.is_reachable:
                    _LOG.warning("a provider cannot be reached", provider=name, reason=reach.error)
                elif reach.is_reachable and not was_reachable:
                    _LOG.info("a provider can be reached again", provider=name)
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Look at all providers now; who comes while somebody looks waits for what that one finds."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        # Others may wait for it too: one that leaves must not end it.
        await asyncio.shield(self._looking)

    async def latest(self) -> Mapping[str, Reach]:
        """Return what the last look found, by provider; looks if there was none yet."""
        if len(self._latest) < len(self._probes):
            await self.look()
        return self._latest

    def known(self, provider: str) -> bool | None:
        """Whether a provider could be reached at the last look; None before the first."""
        reach = self._latest.get(provider)
        return None if reach is None else reach.is_reachable

    async def _look(self) -> None:
        found = await asyncio.gather(*(self._reach(probe) for probe in self._probes.values()))
        self._latest = dict(zip(self._probes, found, strict=True))

    async def _reach(self, probe: Probe) -> Reach:
        problem = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await probe(_TIMEOUT_S)
        except ProviderError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"no connection within {_TIMEOUT_S:g} seconds"
        return Reach(utc_text(self._clock.now_ms()), problem)
