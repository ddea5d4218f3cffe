"""Instances on a real database: their beats, and what each makes of another's silence."""

import asyncio
import contextlib

import asyncpg
import pytest
import sqlalchemy as sa

from harness import engines
from harness.books import open_books, reservation
from harness.clock import FakeClock
from harness.postgres import shared_server
from tollhouse.idempotency.model import claim
from tollhouse.instances import service
from tollhouse.instances.lease import Lease
from tollhouse.instances.service import Membership
from tollhouse.keys import store as keys
from tollhouse.keys.model import ServiceKey

pytestmark = [pytest.mark.usefixtures("on_each_engine"), pytest.mark.engine("postgresql")]

LEASE_S = 10.0
TURN_S = 1.0
# Declared at random between one lease and a tenth more, so that not all try at once.
TURNS_UNTIL_LOST = 12


class Instance:
    """An instance that beats when it is told to, and notes what it is told."""

    def __init__(self, url, clock):
        self.url, self.clock = url, clock
        self.lease = Lease(clock, LEASE_S)
        self.lost = self.keys_changed = 0
        self.refusal = None
        self.membership = Membership(
            self.dial, clock, self.lease, when_lost=self._when_lost, when_keys_changed=self._when_keys_changed
        )

    async def dial(self):
        if self.refusal is not None:
            raise self.refusal
        return await asyncpg.connect(self.url)

    def _when_lost(self):
        self.lost += 1

    def _when_keys_changed(self):
        self.keys_changed += 1

    @property
    def epoch(self):
        return self.lease.epoch

    async def turn(self):
        await self.membership._turn()

    def is_holding(self):
        return self.lease.holds(self.epoch)

    def break_connection(self):
        connection = self.membership._connection
        assert connection is not None
        shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", connection.get_server_pid())


@pytest.fixture
def url(tmp_path):
    return engines.database_url(tmp_path / "db")


@pytest.fixture
def clock():
    return FakeClock()


def run(url, clock, scenario, count=2):
    """Run a scenario with some instances that have joined."""

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            instances = [Instance(url, clock) for _ in range(count)]
            for instance in instances:
                await instance.membership.join()
                stack.push_async_callback(instance.membership.leave)
            await scenario(*instances)

    asyncio.run(main())


def execute(url, sql, *values):
    return [tuple(row) for row in shared_server().execute(sql, engines.database_name(url), *values)]


def states(url):
    return dict(execute(url, "SELECT epoch, state FROM ai_instances"))


def beats(url):
    return dict(execute(url, "SELECT epoch, beat FROM ai_instances"))


async def watch(clock, instance, turns, step_s=TURN_S):
    """Let an instance watch the others while time passes."""
    for _ in range(turns):
        await instance.turn()
        clock.advance(step_s)


def test_each_life_is_an_epoch_of_its_own_that_holds_at_once(url, clock):
    async def scenario(one, other):
        assert 0 < one.epoch < other.epoch
        assert states(url) == {one.epoch: "live", other.epoch: "live"}
        assert one.is_holding()
        assert not one.lease.holds(other.epoch)

    run(url, clock, scenario)


def test_a_beat_moves_the_count_and_renews_the_lease(url, clock):
    async def scenario(one):
        for number in (1, 2, 3):
            clock.advance(7)
            await one.turn()
            assert one.is_holding()
            assert beats(url) == {one.epoch: number}
        clock.advance(7.5)
        assert not one.is_holding()

    run(url, clock, scenario, count=1)


def test_a_beat_that_is_not_answered_renews_nothing(url, clock):
    async def scenario(one):
        clock.advance(5)
        one.break_connection()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
            await one.turn()
        assert one.is_holding()
        clock.advance(2.5)
        assert not one.is_holding()

    run(url, clock, scenario, count=1)


def test_whose_beat_stands_still_for_a_lease_is_declared_lost(url, clock):
    async def scenario(one, silent):
        await watch(clock, one, 10)
        assert states(url)[silent.epoch] == "live"
        await watch(clock, one, TURNS_UNTIL_LOST - 10 + 1)
        assert states(url) == {one.epoch: "live", silent.epoch: "lost"}
        assert (one.lost, silent.lost) == (1, 0)
        await watch(clock, one, TURNS_UNTIL_LOST)
        assert one.lost == 1

    run(url, clock, scenario)


def test_whoever_is_lost_holds_nothing_by_then(url, clock):
    async def scenario(one, silent):
        for _ in range(TURNS_UNTIL_LOST + 1):
            await one.turn()
            if states(url)[silent.epoch] == "lost":
                assert not silent.is_holding()
                return
            clock.advance(TURN_S)
        pytest.fail("it was never declared lost")

    run(url, clock, scenario)


def test_whose_beat_moves_now_and_then_is_not_lost(url, clock):
    async def scenario(one, slow):
        for _ in range(4):
            await watch(clock, one, 9)
            await slow.turn()
        assert one.lost == 0
        assert set(states(url).values()) == {"live"}

    run(url, clock, scenario)


def test_time_in_which_nobody_watched_proves_nothing_of_the_others(url, clock):
    """A process that was paused itself, or out of touch, has seen no silence."""

    async def scenario(one, other):
        await one.turn()
        clock.advance(1000)
        await one.turn()
        await one.turn()
        assert one.lost == 0
        await watch(clock, one, 8)
        one.membership._disconnect()
        await watch(clock, one, 8)
        assert one.lost == 0
        assert states(url)[other.epoch] == "live"

    run(url, clock, scenario)


def test_a_beat_that_moves_at_the_last_moment_counts(url, clock):
    async def scenario(one, other):
        await watch(clock, one, 10)
        seen_beat = beats(url)[other.epoch]
        await other.turn()
        await one.membership._declare_lost(other.epoch, seen_beat, "the other")
        assert one.lost == 0
        assert states(url)[other.epoch] == "live"

    run(url, clock, scenario)


def test_of_many_that_watch_one_declares(url, clock):
    async def scenario(one, two, three, silent):
        watching = one, two, three
        for _ in range(TURNS_UNTIL_LOST + 1):
            await asyncio.gather(*(each.turn() for each in watching))
            clock.advance(TURN_S)
        assert states(url)[silent.epoch] == "lost"
        assert sum(each.lost for each in watching) == 1
        assert [states(url)[each.epoch] for each in watching] == ["live"] * 3

    run(url, clock, scenario, count=4)


def test_whoever_was_declared_lost_begins_anew_and_says_so(url, clock):
    async def scenario(one, silent):
        first = silent.epoch
        await watch(clock, one, TURNS_UNTIL_LOST + 1)
        await silent.turn()
        assert silent.epoch > one.epoch
        assert silent.lost == 1
        assert silent.is_holding()
        assert not silent.lease.holds(first)
        assert states(url) == {first: "lost", one.epoch: "live", silent.epoch: "live"}

    run(url, clock, scenario)


def test_whoever_leaves_is_stopped_and_nobody_calls_it_lost(url, clock):
    async def scenario(one, other):
        await other.membership.leave()
        await other.membership.leave()
        assert states(url)[other.epoch] == "stopped"
        await watch(clock, one, TURNS_UNTIL_LOST + 1)
        assert one.lost == 0

    run(url, clock, scenario)


def test_whoever_leaves_calls_in_flight_behind_is_found_lost(url, clock, tmp_path):
    async def scenario(one):
        async with open_books(tmp_path / "db", clock) as books:
            await books.set_tenant()
            await books.reserve()
        assert states(url)[books.epoch] == "live"
        await watch(clock, one, TURNS_UNTIL_LOST + 1)
        assert states(url)[books.epoch] == "lost"

    run(url, clock, scenario, count=1)


def test_whoever_leaves_a_call_between_two_attempts_behind_is_found_lost_too(url, clock, tmp_path):
    """Nothing is reserved for it, but its idempotency key would be taken for ever."""
    mine = claim("th_secret", "order-7", b"body", "2026-04-11T12:00:00.000Z")

    async def scenario(one):
        async with open_books(tmp_path / "db", clock) as books:
            await books.set_tenant()
            made = reservation()
            await books.admit(made, mine)
            await books.ledger.release(made)
        await watch(clock, one, TURNS_UNTIL_LOST + 1)
        assert states(url)[books.epoch] == "lost"
        assert execute(url, "SELECT claim_id FROM ai_idempotency") == []

    run(url, clock, scenario, count=1)


def test_whoever_serves_while_the_database_is_migrated_to_another_version_takes_no_more_calls(url, clock):
    async def scenario(one, other):
        await one.turn()
        execute(url, "UPDATE ai_settings SET value = 'another' WHERE name = 'functions_digest'")
        assert one.is_holding()
        await one.turn()
        await one.turn()
        assert not one.is_holding()
        await other.membership._register()
        await other.turn()
        assert not other.is_holding()

    run(url, clock, scenario)


# Keys.


async def add_key(url, number):
    def add():
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            keys.add(connection, ServiceKey(f"key_{number}", "s", "service", None, "", f"{number}", "now", None))
        engine.dispose()

    await asyncio.to_thread(add)


def test_a_change_of_keys_is_told_once_to_everybody(url, clock):
    async def scenario(one, other):
        for number in (1, 2):
            await add_key(url, number)
            for _ in range(2):
                await one.turn()
                await other.turn()
            assert (one.keys_changed, other.keys_changed) == (number, number)

    run(url, clock, scenario)


def test_a_change_of_keys_is_told_and_waits_for_no_beat(url, clock, monkeypatch):
    async def scenario(one):
        async with kept(one):
            await until(lambda: beats(url)[one.epoch] > 0)
            await add_key(url, 1)
            await until(lambda: one.keys_changed == 1)

    monkeypatch.setattr(service, "_BEAT_EVERY_S", 3600)
    run(url, clock, scenario, count=1)


# What keeps it going.


@contextlib.asynccontextmanager
async def kept(instance):
    keeping = asyncio.create_task(instance.membership.keep())
    try:
        yield
        assert not keeping.done()
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


async def until(is_so):
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "refusal",
    [
        None,
        ConnectionRefusedError("nobody listens"),
        TimeoutError(),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.InterfaceError("the driver gave up"),
        asyncpg.exceptions._base.TargetServerAttributeNotMatched("no host is the primary"),
        RuntimeError("a defect"),
    ],
    ids=lambda refusal: type(refusal).__name__,
)
def test_beats_go_on_after_an_outage_under_the_same_epoch(url, clock, monkeypatch, refusal):
    monkeypatch.setattr(service, "_BEAT_EVERY_S", 0.01)

    async def scenario(one):
        before = one.epoch
        async with kept(one):
            for _ in range(2):
                one.refusal = refusal
                one.break_connection()
                await asyncio.sleep(0.05)
                one.refusal = None
                seen = beats(url)[one.epoch]
                await until(lambda seen=seen: beats(url)[one.epoch] > seen + 1)
        assert one.epoch == before

    run(url, clock, scenario, count=1)


def test_the_servers_last_words_just_before_a_beat_do_not_end_the_beats(url, clock, monkeypatch):
    """The loop is held up, as by a long turn: the end of the connection and the time to beat are met at once."""
    monkeypatch.setattr(service, "_BEAT_EVERY_S", 0.001)

    async def scenario(one):
        async with kept(one):
            for _ in range(5):
                one.break_connection()
                seen = beats(url)[one.epoch]
                await until(lambda seen=seen: beats(url)[one.epoch] > seen)

    run(url, clock, scenario, count=1)


def test_ended_lives_are_forgotten_after_a_while_unless_something_of_theirs_is_open(url, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_FORGET_EVERY_BEATS", 1)

    async def scenario(one, left, silent):
        async with open_books(tmp_path / "db", clock) as books:
            await books.set_tenant()
            await books.reserve()
            for epoch in (silent.epoch, books.epoch):
                assert await books.declare_lost(epoch)
        await left.membership.leave()
        clock.advance(7 * 24 * 3600)
        await one.turn()
        assert set(states(url)) == {one.epoch, left.epoch, silent.epoch, books.epoch}
        clock.advance(0.001)
        await one.turn()
        assert states(url) == {one.epoch: "live", books.epoch: "lost"}

    run(url, clock, scenario, count=3)
