"""Looking whether providers can be reached."""

import asyncio

import structlog

from harness.clock import FakeClock
from tollhouse.providers.base import NotSent
from tollhouse.resilience import reachability
from tollhouse.resilience.reachability import Reachability


async def reached(_timeout_s):
    pass


def test_all_are_looked_at_together_and_one_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(reachability, "_TIMEOUT_S", 0.05)

    async def scenario():
        both, begun = asyncio.Event(), []

        async def meets_the_other(_timeout_s):
            begun.append(1)
            if len(begun) == 2:
                both.set()
            await both.wait()

        async def hangs(_timeout_s):
            await asyncio.Event().wait()

        looked = Reachability({"a": meets_the_other, "b": meets_the_other, "c": hangs}, FakeClock())
        assert looked.known("a") is None
        found, again = await asyncio.gather(looked.latest(), looked.latest())
        assert found == again
        assert [found[name].is_reachable for name in "abc"] == [True, True, False]
        assert found["c"].error == "no connection within 0.05 seconds"
        assert found["a"].checked_at == "2026-04-10T12:00:00.000Z"
        await looked.latest()
        assert len(begun) == 2, "what is known is not looked for again by whoever asks"
        assert (looked.known("a"), looked.known("c")) == (True, False)

    asyncio.run(scenario())


def test_a_change_is_logged_once_each_way():
    async def scenario():
        looks = []

        async def fails_twice(_timeout_s):
            looks.append(1)
            if len(looks) in {2, 3}:
                raise NotSent("connection refused")

        looked = Reachability({"a": fails_twice}, FakeClock(), every_s=0.001)
        with structlog.testing.capture_logs() as logs:
            looking = asyncio.create_task(looked.keep_looking())
            while len(looks) < 6:
                await asyncio.sleep(0.001)
            looking.cancel()
        assert [(line["event"], line.get("reason")) for line in logs] == [
            ("a provider cannot be reached", "connection refused"),
            ("a provider can be reached again", None),
        ]

    asyncio.run(scenario())
