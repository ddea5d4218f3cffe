"""Runs ``tollhouse`` with a fault in it: ``python faulty.py serve -c FILE``.

What is at fault is said by the environment; the service's own code knows nothing of it.

FAULT_POINT, FAULT_AT, FAULT_ENGINE: at which step (see ``POINTS``) the process kills itself, the how manieth time it is
    taken, and on which engine.
FAULT_CLOCK: a file with what is added to the clocks: milliseconds to the wall's, seconds to the monotonic one.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

POINTS = (
    "before_reserve",
    "in_reserve",
    "after_reserve",
    "before_dispatch",
    "in_dispatch",
    "after_answer",
    "before_settle",
    "in_settle",
    "after_settle",
)
"""``in_…``: the transaction is under way, or the request is sent and not answered."""
# Long enough for bytes to leave this process, and shorter than what the tests' provider takes.
_ON_ITS_WAY_S = 0.02


class Death:
    """Comes at the nth passage."""

    def __init__(self, at: int) -> None:
        self._left = at

    def is_due(self) -> bool:
        self._left -= 1
        return self._left == 0

    @staticmethod
    def come() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def pass_by(self) -> None:
        if self.is_due():
            self.come()


def before(death: Death, original: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        death.pass_by()
        return original(*args, **kwargs)

    return wrapped


def within(death: Death, original: Callable[..., Any]) -> Callable[..., Any]:
    """Die when the statements of a transaction were run, ahead of its commit."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        death.pass_by()
        return result

    return wrapped


def after(death: Death, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        death.pass_by()
        return result

    return wrapped


def underway(death: Death, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Die when what is awaited has left this process, and has not come back."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not death.is_due():
            return await original(*args, **kwargs)
        sent = asyncio.ensure_future(original(*args, **kwargs))
        # On a fast server the answer is back by then; nobody has seen it all the same.
        await asyncio.sleep(_ON_ITS_WAY_S)
        death.come()
        return await sent

    return wrapped


def arm(point: str, at: int, engine: str) -> None:
    """Put the fault in its place."""
    from tollhouse.gate.service import Gate
    from tollhouse.ledger.service import Ledger
    from tollhouse.providers.http1 import Connection
    from tollhouse.providers.transport import Upstream

    places: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "before_reserve": (Gate, "admit", before),
        "after_reserve": (Gate, "admit", after),
        "before_dispatch": (Upstream, "post", before),
        "in_dispatch": (Connection, "send", underway),
        "after_answer": (Upstream, "post", after),
        "before_settle": (Ledger, "settle", before),
        "after_settle": (Ledger, "settle", after),
    }
    if engine == "sqlite":
        from tollhouse.gate.sqlite import SqliteGate
        from tollhouse.ledger import sqlite

        places |= {"in_reserve": (SqliteGate, "_admit_batch", within), "in_settle": (sqlite, "_settle", within)}
    else:
        from tollhouse.gate.postgres import PostgresAdmissions
        from tollhouse.ledger.postgres import PostgresSettlements

        places |= {
            "in_reserve": (PostgresAdmissions, "run", underway),
            "in_settle": (PostgresSettlements, "run", underway),
        }
    death = Death(at)
    owner, name, way = places[point]
    setattr(owner, name, way(death, getattr(owner, name)))


def shift_clocks(file: Path) -> None:
    """Add to the clocks what a file says, read anew each time."""
    from tollhouse.kit.clock import SystemClock

    now_ms, monotonic_s = SystemClock.now_ms, SystemClock.monotonic_s

    def shift(place: int) -> float:
        return float(file.read_text().split()[place])

    SystemClock.now_ms = lambda self: now_ms(self) + int(shift(0))  # type: ignore[method-assign]
    SystemClock.monotonic_s = lambda self: monotonic_s(self) + shift(1)  # type: ignore[method-assign]


def main() -> None:
    if point := os.environ.get("FAULT_POINT"):
        arm(point, int(os.environ["FAULT_AT"]), os.environ["FAULT_ENGINE"])
    if file := os.environ.get("FAULT_CLOCK"):
        shift_clocks(Path(file))
    from tollhouse.__main__ import main as run

    sys.argv[0] = "tollhouse"
    run()


if __name__ == "__main__":
    main()
