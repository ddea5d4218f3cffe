"""Bulkheads: how many calls are under way at a provider at once, in all and for one tenant."""

import asyncio
from collections import deque
from contextlib import suppress


class _Places:
    """A number of places, and who waits for one, first come first served."""

    __slots__ = ("_limit", "_max_waiting", "taken", "waiters")

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self.taken = 0
        self.waiters: deque[asyncio.Future[None]] = deque()

    def try_take(self) -> bool:
        # Whoever waits goes first, or a steady stream of newcomers would keep them waiting for ever.
        if self.taken >= self._limit or self.waiters:
            return False
        self.taken += 1
        return True

    async def take(self, until_s: float) -> bool:
        """Wait for a place until a time of the running loop's clock; False when none came free, or too many wait."""
        if self.try_take():
            return True
        loop = asyncio.get_running_loop()
        if len(self.waiters) >= self._max_waiting or loop.time() >= until_s:
            return False
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiters.append(waiter)
        timer = loop.call_at(until_s, waiter.cancel)
        try:
            await waiter
        except asyncio.CancelledError:
            with suppress(ValueError):
                self.waiters.remove(waiter)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                if not waiter.cancelled():
                    # The place came in the same moment as the cancellation: it is the next one's.
                    self.give_back()
                raise
            return False
        finally:
            timer.cancel()
        return True

    def give_back(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                # The place changes hands, and stays taken.
                waiter.set_result(None)
                return
        self.taken -= 1


class Bulkhead:
    """Bounds the calls under way at one provider.

    Args:
        limit: calls at once, of all tenants; None sets no limit.
        tenant_limit: … of one tenant; None sets no limit.
        max_waiting: how many may wait for a place, in all, and of one tenant.
        max_wait_s: how long they wait at the longest, within the deadlines of their calls.
    """

    def __init__(
        self, *, limit: int | None, tenant_limit: int | None, max_waiting: int = 100, max_wait_s: float = 1.0
    ) -> None:
        self._all = None if limit is None else _Places(limit, max_waiting)
        self._tenant_limit = tenant_limit
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._tenants: dict[str, _Places] = {}
        self.refused = 0

    def try_enter(self, tenant_id: str) -> bool:
        """Take a place if one is free now."""
        of_tenant = self._of(tenant_id)
        if of_tenant is not None and not of_tenant.try_take():
            return False
        if self._all is None or self._all.try_take():
            return True
        self._leave_tenant(tenant_id)
        return False

    async def enter(self, tenant_id: str, deadline_s: float) -> bool:
        """Take a place, waiting for one within bounds; False when there is none.

        A tenant's own place is waited for first, so that no tenant has more calls waiting for the provider than it may
        have under way there.
        """
        until_s = min(deadline_s, asyncio.get_running_loop().time() + self._max_wait_s)
        of_tenant = self._of(tenant_id)
        if of_tenant is not None and not await of_tenant.take(until_s):
            self._forget(tenant_id, of_tenant)
            self.refused += 1
            return False
        has_entered = False
        try:
            has_entered = self._all is None or await self._all.take(until_s)
        finally:
            if not has_entered:
                self.refused += 1
                self._leave_tenant(tenant_id)
        return has_entered

    def leave(self, tenant_id: str) -> None:
        """Give the place of a call back."""
        self._leave_tenant(tenant_id)
        if self._all is not None:
            self._all.give_back()

    @property
    def under_way(self) -> int:
        """How many calls have a place now."""
        return self._all.taken if self._all is not None else sum(each.taken for each in self._tenants.values())

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        waiting = sum(len(each.waiters) for each in self._tenants.values())
        return waiting + (len(self._all.waiters) if self._all is not None else 0)

    def _of(self, tenant_id: str) -> _Places | None:
        if self._tenant_limit is None:
            return None
        places = self._tenants.get(tenant_id)
        if places is None:
            places = self._tenants[tenant_id] = _Places(self._tenant_limit, self._max_waiting)
        return places

    def _leave_tenant(self, tenant_id: str) -> None:
        if self._tenant_limit is not None:
            places = self._tenants[tenant_id]
            places.give_back()
            self._forget(tenant_id, places)

    def _forget(self, tenant_id: str, places: _Places) -> None:
        if not places.taken and not places.waiters:
            # There may be far more tenants than calls.
            self._tenants.pop(tenant_id, None)
