"""What a call leaves in memory once it is over: nothing that only the garbage collector could free.

The collector runs seldom, and a prompt may be large: whatever waits for it adds up to the memory of the machine.
"""

import asyncio
import contextlib
import itertools

import pytest

from harness.books import run_on_books
from harness.garbage import garbage_of
from harness.providers import Desk, Provider, answer
from tollhouse.completions import deadlines, failover
from tollhouse.errors import TollhouseError
from tollhouse.providers.base import NotSent, OutcomeUnknown, Overloaded, Rejected, TimedOut

pytestmark = pytest.mark.usefixtures("on_each_engine")

CALLS = 5


class Raising(Provider):
    """Fails each time with an exception of its own, as a real transport does."""

    def __init__(self, kind, **details):
        super().__init__()
        self._kind, self._details = kind, details

    async def post(self, wire, **_timeouts):
        raise self._kind("a reason", **self._details)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", (0.0, 0.0))
    monkeypatch.setattr(deadlines, "_LOOK_EVERY_S", 0.01)


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "with a fallback"])
@pytest.mark.parametrize(
    "provider",
    [
        Provider(answer("four")),
        Raising(NotSent),
        Raising(Rejected, status=400),
        Raising(Overloaded, status=503),
        Raising(TimedOut),
        Raising(OutcomeUnknown),
    ],
    ids=["answered", "not sent", "rejected", "overloaded", "timed out", "lost"],
)
def test_a_call_leaves_nothing_to_the_garbage_collector(tmp_path, provider, is_alone):
    async def scenario(books):
        await books.set_tenant(cap=10**15)
        desk = Desk(books, {"small": provider} if is_alone else {"small": provider, "other": provider})

        numbers = itertools.count()

        async def call():
            for _ in range(CALLS):
                with contextlib.suppress(TollhouseError):
                    await desk.complete(key=f"key {next(numbers)}")
            await asyncio.sleep(0.02)

        # What the event loop itself has at hand is a few objects, however many calls there were.
        assert await garbage_of(call) < 3 * CALLS

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(
    ("code", "tenant", "limits"),
    [
        ("ai_rate_limited", {"cap": 10**15}, {"requests_per_minute": 1, "burst": 1}),
        ("ai_budget_exceeded", {"cap": 1}, {}),
        ("ai_module_inactive", {"is_active": False}, {}),
    ],
)
def test_a_refused_call_leaves_nothing_either(tmp_path, code, tenant, limits):
    """One who goes on calling at many times his limit would have all others wait for the collector."""

    async def scenario(books):
        await books.set_tenant(**tenant)
        desk = Desk(books, {"small": Provider(answer("four"))})
        refused = []

        async def call():
            for _ in range(CALLS):
                try:
                    await desk.complete()
                except TollhouseError as error:
                    refused.append(error.code)
            # Until its deadline need not be watched any more.
            await asyncio.sleep(0.02)

        assert await garbage_of(call) < 3 * CALLS
        assert code in refused

    run_on_books(tmp_path, scenario, **limits)
