"""What a forked child must not share with its parent: connections, and locks held by threads that it has not got."""

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something that starts anew in a child."""

    def renew(self) -> None: ...


_renewables: WeakSet[Renewable] = WeakSet()


def renew_after_fork(part: Renewable) -> None:
    """Have a part renewed in each child that this process forks, for as long as the part lives."""
    _renewables.add(part)


def _renew_all() -> None:
    for part in list(_renewables):
        part.renew()


os.register_at_fork(after_in_child=_renew_all)
