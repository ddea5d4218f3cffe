"""The places of those who follow events: so many in a process, and so many of each tenant among them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tollhouse.errors import RateLimited, Unavailable
from tollhouse.events.model import Selection
from tollhouse.notifications.grant import Grant

_AGAIN_S = 5


class Places:
    """Who has a place.

    Args:
        most: how many there are.
        most_of_one: how many of them one tenant may have, or one key that follows several tenants at once.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, selection: Selection, grant: Grant) -> Iterator[None]:
        """Have a place for as long as the context lasts. It is taken at once: no rush gets more than there are.

        Raises:
            RateLimited: all that one may have are taken.
            Unavailable: all are taken.
        """
        whose = _whose(selection, grant)
        if self._taken[whose] >= self._most_of_one:
            raise RateLimited(
                f"all {self._most_of_one} places of {whose} to follow events are taken; follow with fewer clients",
                retry_after_s=_AGAIN_S,
            )
        if self._taken.total() >= self._most:
            raise Unavailable(f"all {self._most} places to follow events are taken", retry_after_s=_AGAIN_S)
        self._taken[whose] += 1
        try:
            yield
        finally:
            self._taken[whose] -= 1
            if not self._taken[whose]:
                del self._taken[whose]


def _whose(selection: Selection, grant: Grant) -> str:
    if selection.tenants is not None and len(selection.tenants) == 1:
        (tenant_id,) = selection.tenants
        return f"tenant {tenant_id}"
    return f"key {grant.key_id}"
