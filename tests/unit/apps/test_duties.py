"""Duties that end on a defect are begun again, and it shows."""

import asyncio
from typing import Any

import pytest

from harness.clock import FakeClock
from tollhouse.apps import duties as module
from tollhouse.apps.duties import Duties, Duty
from tollhouse.telemetry.duties import duty_metrics
from tollhouse.telemetry.metrics import Metrics

SOON_S = 20


class Work:
    """A duty that ends on a defect so many times, and then goes on."""

    def __init__(self, defects: int, defect: type[BaseException] = ValueError) -> None:
        self.begun = 0
        self.goes_on = asyncio.Event()
        self._defects = defects
        self._defect = defect

    async def run(self) -> None:
        self.begun += 1
        if self.begun <= self._defects:
            raise self._defect("a defect")
        self.goes_on.set()
        await asyncio.Event().wait()


class Pauses:
    """Takes the place of sleeping, and notes for how long it was to be."""

    def __init__(self) -> None:
        self.lengths_s: list[float] = []

    async def sleep(self, length_s: float) -> None:
        self.lengths_s.append(length_s)


@pytest.fixture
def pauses(monkeypatch):
    pauses = Pauses()

    class Asyncio:
        sleep = staticmethod(pauses.sleep)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr(module, "asyncio", Asyncio())
    return pauses


def run(scenario):
    async def main():
        async with asyncio.timeout(SOON_S):
            await scenario()

    asyncio.run(main())


@pytest.mark.parametrize("defect", [ValueError, asyncio.CancelledError])
def test_a_duty_that_a_defect_ends_is_begun_again_after_ever_longer_pauses(pauses, capsys, defect):
    async def scenario():
        duties, work = Duties(FakeClock()), Work(8, defect)
        keeping = asyncio.create_task(duties.keep([Duty("feed", work.run)]))
        await work.goes_on.wait()
        assert pauses.lengths_s == [1, 2, 4, 8, 16, 32, 60, 60]
        assert duties.defects == {"feed": 8}
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    run(scenario)
    told = capsys.readouterr().out
    assert told.count("a duty ended on a defect") == 8
    assert "feed" in told
    assert "a defect" in told


def test_no_duty_is_ended_by_anothers_defect(pauses):
    async def scenario():
        duties, broken, sound = Duties(FakeClock()), Work(3), Work(0)
        keeping = asyncio.create_task(duties.keep([Duty("broken", broken.run), Duty("sound", sound.run)]))
        await broken.goes_on.wait()
        assert (broken.begun, sound.begun) == (4, 1)
        assert duties.defects == {"broken": 3, "sound": 0}
        keeping.cancel()

    run(scenario)


def test_a_duty_is_unsound_until_it_has_run_for_two_minutes_and_then_its_pauses_begin_anew(pauses):
    async def scenario():
        clock = FakeClock()
        duties = Duties(clock)
        fails, has_begun = asyncio.Event(), asyncio.Event()

        async def work():
            has_begun.set()
            await fails.wait()
            fails.clear()
            raise ValueError("a defect")

        async def fail():
            has_begun.clear()
            fails.set()
            await has_begun.wait()

        keeping = asyncio.create_task(duties.keep([Duty("feed", work)]))
        await has_begun.wait()
        assert duties.unsound == []
        for _ in range(2):
            await fail()
        assert pauses.lengths_s == [1, 2]
        clock.advance(119)
        assert duties.unsound == ["feed"]
        clock.advance(1)
        assert duties.unsound == []
        await fail()
        assert duties.unsound == ["feed"]
        assert pauses.lengths_s == [1, 2, 1]
        keeping.cancel()

    run(scenario)


def test_a_duty_that_is_stopped_is_not_begun_again_though_its_end_is_a_defect(pauses, capsys):
    """Whoever stops a process cancels its duties once, and waits for their end."""

    async def scenario():
        duties, sound, begun = Duties(FakeClock()), Work(0), 0

        async def work():
            nonlocal begun
            begun += 1
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("it cannot be tidied up")

        keeping = asyncio.create_task(duties.keep([Duty("worker", work), Duty("sound", sound.run)]))
        await sound.goes_on.wait()
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert (begun, pauses.lengths_s) == (1, [])

    run(scenario)
    assert "it cannot be tidied up" in capsys.readouterr().out


def test_a_duty_with_nothing_to_do_may_end(pauses):
    async def scenario():
        async def nothing():
            """Such as looking at providers, of which there are none."""

        duties = Duties(FakeClock())
        await duties.keep([Duty("idle", nothing)])
        assert (duties.defects, duties.unsound, pauses.lengths_s) == ({"idle": 0}, [], [])

    run(scenario)


def test_the_metrics_count_defects_and_name_duties_that_had_none():
    metrics = Metrics()
    metrics.add(lambda: duty_metrics({"feed": 2, "webhooks": 0}))
    told = metrics.exposition().decode()
    assert 'tollhouse_duty_defects_total{duty="feed"} 2.0' in told
    assert 'tollhouse_duty_defects_total{duty="webhooks"} 0.0' in told
