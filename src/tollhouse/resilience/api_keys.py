"""Several API keys of one provider: calls are shared out by weight, and a key that the provider turns away rests."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

A = TypeVar("A")


class ApiKey(Generic[A]):
    """One key.

    Attributes:
        name: what the operator calls it; never the key itself.
        account: what makes calls with it.
        turned_away: how often the provider turned it away.
    """

    __slots__ = ("_credit", "account", "name", "rests_until_s", "turned_away", "weight")

    def __init__(self, name: str, account: A, weight: int = 1) -> None:
        self.name = name
        self.account = account
        self.weight = weight
        self.rests_until_s = float("-inf")
        self.turned_away = 0
        self._credit = 0


class KeySnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as operators see it; ``rests_s`` is for how many seconds more it is not used."""

    weight: int
    turned_away: int
    rests_s: float | None = None


class KeyRotation(Generic[A]):
    """Chooses the key of each call.

    Shared out as by nginx's smooth weighted round robin: over any few calls each key gets its share, evenly spread.

    Args:
        keys: at least one.
        rest_s: how long a key rests that was turned away, unless the provider says how long.
    """

    def __init__(self, keys: Sequence[ApiKey[A]], rest_s: float) -> None:
        self.keys = tuple(keys)
        self._rest_s = rest_s

    def choose(self, now_s: float) -> ApiKey[A]:
        """Return the key of the next call; when all rest, the one whose rest ends first."""
        chosen: ApiKey[A] | None = None
        total = 0
        for key in self.keys:
            if key.rests_until_s > now_s:
                continue
            total += key.weight
            key._credit += key.weight  # noqa: SLF001 - the rotation's own bookkeeping
            if chosen is None or key._credit > chosen._credit:  # noqa: SLF001
                chosen = key
        if chosen is None:
            return min(self.keys, key=lambda key: key.rests_until_s)
        chosen._credit -= total  # noqa: SLF001
        return chosen

    def turned_away(self, key: ApiKey[A], now_s: float, pause_s: float | None) -> bool:
        """Let a key rest that got 401 or 429; return whether another one can take its place now."""
        key.turned_away += 1
        key.rests_until_s = max(key.rests_until_s, now_s + (self._rest_s if pause_s is None else pause_s))
        return any(each.rests_until_s <= now_s for each in self.keys)

    def snapshot(self, now_s: float) -> dict[str, KeySnapshot]:
        """Return what operators see of the keys, by their names."""
        return {
            key.name: KeySnapshot(
                key.weight,
                key.turned_away,
                round(key.rests_until_s - now_s, 3) if key.rests_until_s > now_s else None,
            )
            for key in self.keys
        }
