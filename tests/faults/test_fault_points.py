"""kill -9 at each step of a call, in the midst of others: whatever was done by then is what is found."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
import uvloop

from harness.faults import measure
from harness.faults_service import FaultyService
from harness.faulty import POINTS
from harness.load import Outcome, all_at_once, until
from harness.reckoning import number_of, numbered, numbered_call
from harness.service import Service, TenantId, eventually, serving
from tollhouse.testing import Behaviour, FakeProvider

CALLERS = 12
# Not the first, so that statements are prepared and connections made. A transaction holds several calls.
CALLS_BEFORE, TRANSACTIONS_BEFORE = 30, 6
APART = 100_000

# What is found of calls whose caller was told nothing, which shows where the process died.
NOTHING = "nothing"
RESERVED = "held as unknown, and not dispatched"
DISPATCHED = "held as unknown, and dispatched"
SETTLED = "settled"
FOUND: dict[str, str | dict[str, str]] = {
    "before_reserve": NOTHING,
    "in_reserve": {"sqlite": NOTHING, "postgresql": RESERVED},
    "after_reserve": RESERVED,
    "before_dispatch": RESERVED,
    "in_dispatch": DISPATCHED,
    "after_answer": DISPATCHED,
    "before_settle": DISPATCHED,
    "in_settle": {"sqlite": DISPATCHED, "postgresql": SETTLED},
    "after_settle": SETTLED,
}


@pytest.fixture(scope="module")
def victim(engine, config, tmp_path_factory) -> FaultyService:
    folder = tmp_path_factory.mktemp("victim")
    return FaultyService(folder, config, database=folder / "tollhouse.db")


@pytest.fixture(scope="module")
def survivor(engine, victim, config, tmp_path_factory) -> Iterator[Service | None]:
    """On PostgreSQL, another process that shares the database all along."""
    if engine == "sqlite":
        yield None
        return
    with serving(tmp_path_factory.mktemp("survivor"), config, database=victim.database) as service:
        yield service


class Deaths:
    """What became of the calls that were made until the process had killed itself, by its point."""

    def __init__(self, engine: str, fake: FakeProvider, tenant: TenantId, key: str) -> None:
        self._engine, self._fake, self._tenant, self._key = engine, fake, tenant, key
        self._outcomes: dict[str, list[Outcome]] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        return [*chain.from_iterable(self._outcomes.values())]

    def run_into(self, point: str, victim: FaultyService) -> None:
        self._fake.behave(Behaviour(delay_s=0.1 if point == "in_dispatch" else 0.004))
        calls = numbered(self._tenant, self._key, start=APART * len(self._outcomes), is_idempotent=True)
        stop = lambda: asyncio.to_thread(victim.wait_for_death)
        found = self._outcomes[point] = uvloop.run(until(stop, victim.port, calls, callers=CALLERS))
        assert {outcome.status for outcome in found} <= {200, None}

    def judge(self, service: Service, scenario: str, recovered_s: float) -> None:
        """Look at what is found after the last of them, and of each whether it came where it should."""
        figures = measure(service, self._fake, self._tenant, self.outcomes)
        figures.check(scenario, recovered_s=recovered_s)
        for point, outcomes in self._outcomes.items():
            found, expected = self._found(service, outcomes), FOUND[point]
            assert found[expected if isinstance(expected, str) else expected[self._engine]] > 0, (point, found)

    def _found(self, service: Service, outcomes: list[Outcome]) -> Counter[str]:
        """Return what is known of the calls that were not answered."""
        statuses = {int(row["user_id"]): row["status"] for row in service.rows(tenant_id=self._tenant)}
        dispatched = {number_of(receipt) for receipt in self._fake.receipts()}
        found: Counter[str] = Counter()
        for outcome in outcomes:
            if outcome.status is None:
                status = statuses.get(outcome.number)
                unknown = DISPATCHED if outcome.number in dispatched else RESERVED
                found[SETTLED if status == "settled" else NOTHING if status is None else unknown] += 1
        return found

    def ask_again(self, service: Service) -> None:
        """Repeat the calls that were not answered under their idempotency keys: none is paid for twice."""
        self._fake.behave(Behaviour())
        untold = [outcome.number for outcome in self.outcomes if outcome.status is None]
        calls = [numbered_call(number, self._tenant, self._key, is_idempotent=True) for number in untold]
        again = uvloop.run(all_at_once(service.port, calls))
        for number, outcome in zip(untold, again, strict=True):
            outcome.number = number
            # What was never reserved is called now, what was settled is told now, and what is held is not called again.
            assert outcome.status in {200, 504}, outcome
        told = Counter(outcome.status for outcome in again)
        figures = measure(service, self._fake, self._tenant, again, earlier=self.outcomes)
        figures.check("kill -9 at points, asked again", answered_now=told[200], held=told[504])


def kill_at(
    points: Sequence[str], engine: str, victim: FaultyService, survivor: Service | None, fake: FakeProvider
) -> None:
    deaths: Deaths | None = None
    for place, point in enumerate(points):
        started_s = time.monotonic()
        # On SQLite, the start for the next point is what finds out about the last one.
        victim.start_doomed(point, TRANSACTIONS_BEFORE if point in {"in_reserve", "in_settle"} else CALLS_BEFORE)
        try:
            if deaths is None:
                deaths = Deaths(engine, fake, victim.tenant(), victim.new_key()["key"])
            elif survivor is None:
                deaths.judge(victim, f"kill -9 {points[place - 1]}", time.monotonic() - started_s)
            deaths.run_into(point, victim)
        except BaseException:
            victim.kill()
            raise
    assert deaths is not None
    died_s = time.monotonic()
    if survivor is None:
        with victim.sound() as service:
            deaths.judge(service, f"kill -9 {points[-1]}", time.monotonic() - died_s)
            deaths.ask_again(service)
    else:
        # It holds what the dead left, each a lease after its end.
        eventually(lambda: not survivor.open_reservations())
        deaths.judge(survivor, f"kill -9 at {len(points)} points, one instance survives", time.monotonic() - died_s)
        deaths.ask_again(survivor)


def test_a_kill_in_the_midst_of_a_step_loses_nothing_and_doubles_nothing(engine, victim, survivor, fake):
    kill_at(["in_reserve", "in_settle"], engine, victim, survivor, fake)


@pytest.mark.slow
def test_a_kill_at_each_point_of_a_call_loses_nothing_and_doubles_nothing(engine, victim, survivor, fake):
    kill_at(POINTS, engine, victim, survivor, fake)
