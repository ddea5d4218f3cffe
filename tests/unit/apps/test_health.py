"""Health, on a database and providers that do as they are told."""

import asyncio
from typing import Any, ClassVar

import pytest

from tollhouse.apps.duties import Duties
from tollhouse.apps.health import Health, resident_bytes
from tollhouse.errors import Unavailable
from tollhouse.providers.base import NotSent
from tollhouse.resilience.breaker import BreakerSettings, CircuitBreaker
from tollhouse.resilience.guards import Guards, ProviderGuards
from tollhouse.resilience.reachability import Reachability
from tollhouse.resilience.shedding import LoadShedder, SheddingLimits
from tollhouse.telemetry.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_ms(self) -> int:
        return int(self.at_s * 1000)

    def monotonic_s(self) -> float:
        return self.at_s


class Database:
    waiting = 3

    def __init__(self) -> None:
        self.writes = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def write(self, _work: object) -> None:
        self.writes += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error


class Ledger:
    unwritten = 0


def health_of(database: Any = None, **given: Any) -> Health:
    parts: dict[str, Any] = {"ledger": Ledger(), "metrics": Metrics(), "clock": Clock()} | given
    parts["reachability"] = Reachability(parts.pop("probes", {}), parts["clock"])
    if database is None:
        database = Database()
    return Health(database=database, **parts)


async def reached(_timeout_s: float) -> None:
    """A provider that can be reached."""


async def refused(_timeout_s: float) -> None:
    raise NotSent("connection refused")


def test_readiness_is_found_by_writing_and_good_for_a_second():
    async def check() -> None:
        clock, database = Clock(), Database()
        health = health_of(database, clock=clock)
        assert [await health.is_ready() for _ in range(5)] == [True] * 5
        assert database.writes == 1
        clock.at_s += 0.9
        assert await health.is_ready()
        assert database.writes == 1
        clock.at_s += 0.2
        database.error = Unavailable("the disk is full")
        assert not await health.is_ready()
        assert database.writes == 2
        clock.at_s += 1.1
        database.error = None
        assert await health.is_ready()

    asyncio.run(check())


def test_a_hundred_probes_at_once_are_one_write():
    async def check() -> None:
        database = Database()
        health = health_of(database)
        assert all(await asyncio.gather(*(health.is_ready() for _ in range(100))))
        assert database.writes == 1

    asyncio.run(check())


def test_a_probe_that_leaves_does_not_end_the_measurement_for_others():
    async def check() -> None:
        database = Database()
        database.gate = asyncio.Event()
        health = health_of(database)
        leaving, staying = (asyncio.ensure_future(health.is_ready()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        database.gate.set()
        assert await staying
        assert leaving.cancelled()

    asyncio.run(check())


def test_a_write_that_hangs_is_not_ready_and_is_not_joined_by_another(monkeypatch):
    monkeypatch.setattr("tollhouse.apps.health._WRITE_TIMEOUT_S", 0.01)

    async def check() -> None:
        clock, database = Clock(), Database()
        database.gate = asyncio.Event()
        health = health_of(database, clock=clock)
        for _ in range(3):
            assert not await health.is_ready()
            clock.at_s += 2
        assert database.writes == 1
        database.gate.set()
        await asyncio.sleep(0)
        assert await health.is_ready()

    asyncio.run(check())


def test_a_duty_that_a_defect_has_ended_is_degraded_and_named():
    class Broken:
        unsound: ClassVar = ["webhooks"]

    async def check() -> None:
        sound = await health_of(duties=Duties(Clock())).report()
        assert (sound.status, sound.unsound_duties) == ("ok", [])
        report = await health_of(duties=Broken()).report()
        assert (report.status, report.unsound_duties) == ("degraded", ["webhooks"])

    asyncio.run(check())


def test_the_report_tells_what_there_is():
    async def check() -> None:
        clock, metrics = Clock(), Metrics()
        health = health_of(clock=clock, metrics=metrics, probes={"anthropic": reached})
        metrics.calls_in_flight = 4
        clock.at_s += 12.5
        report = await health.report()
        assert (report.status, report.uptime_s, report.calls_in_flight) == ("ok", 12.5, 4)
        assert (report.database.writable, report.database.waiting, report.database.unwritten_endings) == (True, 3, 0)
        assert report.providers["anthropic"].reachable
        assert report.providers["anthropic"].error is None
        assert report.event_loop_lag_ms >= 0
        assert report.memory.rss_bytes == pytest.approx(resident_bytes(), rel=0.5)

    asyncio.run(check())


def test_a_provider_out_of_reach_degrades_the_service_and_says_why():
    async def check() -> None:
        report = await health_of(probes={"openai": refused, "anthropic": reached}).report()
        assert report.status == "degraded"
        assert (report.providers["openai"].reachable, report.providers["openai"].error) == (False, "connection refused")
        assert report.providers["anthropic"].reachable

    asyncio.run(check())


def test_endings_that_wait_degrade_the_service():
    async def check() -> None:
        ledger = Ledger()
        ledger.unwritten = 2
        report = await health_of(ledger=ledger).report()
        assert (report.status, report.database.unwritten_endings) == ("degraded", 2)

    asyncio.run(check())


def test_a_ledger_that_cannot_be_written_is_unhealthy_whatever_else_is_well():
    async def check() -> None:
        database = Database()
        database.error = Unavailable("the disk is full")
        report = await health_of(database, probes={"anthropic": reached}).report()
        assert (report.status, report.database.writable) == ("unhealthy", False)

    asyncio.run(check())


def test_an_open_breaker_degrades_the_service_and_is_shown():
    async def check() -> None:
        clock = Clock()
        breaker = CircuitBreaker(BreakerSettings(consecutive_failures=2, open_s=4.0))
        guards = Guards(
            {"anthropic": ProviderGuards({"haiku": breaker, "opus": CircuitBreaker(BreakerSettings())})}, clock
        )
        health = health_of(clock=clock, guards=guards, probes={"anthropic": reached})
        before = await health.report()
        assert (before.status, before.providers["anthropic"].breaker) == ("ok", "closed")

        for _ in range(2):
            breaker.failed(breaker.acquire(clock.at_s), clock.at_s)

        report = await health.report()
        shown = report.providers["anthropic"]
        assert (report.status, shown.breaker, shown.breakers["opus"].state) == ("degraded", "open", "closed")
        assert (shown.breakers["haiku"].state, shown.breakers["haiku"].failure_rate) == ("open", 1.0)
        assert 3.6 <= (shown.breakers["haiku"].probe_in_s or 0) <= 4.4

    asyncio.run(check())


def test_a_service_that_sheds_load_says_why_and_is_not_unhealthy():
    async def check() -> None:
        shedder = LoadShedder(SheddingLimits(max_memory_bytes=100), lambda: 101)
        shedder.look(0.0)
        report = await health_of(shedder=shedder).report()
        assert (report.status, report.shedding) == ("degraded", "this instance is short of memory")

    asyncio.run(check())
