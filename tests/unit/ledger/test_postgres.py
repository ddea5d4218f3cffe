"""Endings by several instances at once: a chain for each tenant, and each attempt ended once, by whom it belongs to."""

import asyncio
import random

import asyncpg
import pytest

from harness.books import hash_by_hand, open_books, reservation, run_on_books, run_on_two, settlement
from harness.clock import FakeClock
from harness.database import break_next, read_only
from harness.postgres import shared_server
from tollhouse.errors import CallTimeout, EpochLost, IdempotencyInFlight, InternalError, Unavailable
from tollhouse.gate.admission import Admitted, Replay
from tollhouse.idempotency.model import FreeClaim, claim
from tollhouse.ledger import service
from tollhouse.ledger.model import Release, Settlement
from tollhouse.providers.usage import Usage

pytestmark = pytest.mark.engine("postgresql")

LOCKED = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
MINE = claim("th_secret", "order-7", b"body", "2026-04-11T12:00:00.000Z")


async def ended(*endings):
    """Wait for endings; return the names of what came of them."""
    done = await asyncio.gather(*endings, return_exceptions=True)
    return [type(outcome).__name__ for outcome in done]


# Chains.


def test_chains_stay_linear_while_both_settle_one_tenant(tmp_path):
    async def scenario(one, other):
        for tenant_id in ("42", "43"):
            await one.set_tenant(tenant_id, cap=10**9)

        async def calls(books, count):
            for _ in range(count):
                made = await books.reserve(100, tenant_id=random.choice(["42", "43"]))
                await (
                    books.ledger.hold(made, 1) if random.random() < 0.1 else books.ledger.settle(settlement(made, 7))
                )

        async with asyncio.timeout(100):
            await asyncio.gather(*(calls(books, 10) for books in (one, other) * 10))
        rows = await one.rows()
        assert len(rows) == 200
        for tenant_id in ("42", "43"):
            chain = [row for row in rows if row.tenant_id == tenant_id]
            assert [row.prev_hash for row in chain] == ["0" * 64, *(row.row_hash for row in chain[:-1])]

    run_on_two(tmp_path, scenario)


def test_first_rows_of_a_tenant_by_both_at_once_are_one_chain(tmp_path):
    async def scenario(one, other):
        for number in range(10):
            tenant_id = f"tenant {number}"
            await one.set_tenant(tenant_id)
            mine, theirs = [await books.reserve(tenant_id=tenant_id) for books in (one, other)]
            await asyncio.gather(
                one.ledger.settle(settlement(mine, 7)),
                other.ledger.settle(settlement(theirs, 8)),
            )
        assert (await one.verify()).tenants == 10

    run_on_two(tmp_path, scenario)


def test_batches_over_the_same_tenants_in_any_order_do_not_stand_in_each_others_way(tmp_path):
    async def scenario(one, other):
        names = [f"{number}" for number in range(12)]
        for tenant_id in names:
            await one.set_tenant(tenant_id)
        for _ in range(4):
            made = {
                books: [await books.reserve(tenant_id=tenant_id) for tenant_id in random.sample(names, len(names))]
                for books in (one, other)
            }
            endings = [
                books.ledger.settle(settlement(each, 7)) for books, all_of_it in made.items() for each in all_of_it
            ]
            async with asyncio.timeout(60):
                assert await ended(*endings) == ["NoneType"] * 24

    run_on_two(tmp_path, scenario)


WEIRD = [
    "\"quoted\" 'singly' \\ \\\\",
    "Zürich äöü ß 漢字 עברית",
    "🦊" * 16,
    "x" * 64,
    "\u2028\u2029\ufeff\u200b",
    "\x7f \u0080 \u009f",
    "a/b?c=d&e#f%20",
    "{},[],null,NULL,\\N",
    "$1 %s {0} ''; DROP TABLE ai_usage_log; --",
    "e\u0301 and \u00e9",
    "  leading and trailing  ",
    "\t\n\r",
]


def test_rows_of_whatever_ids_have_hashes_that_any_tool_can_compute(tmp_path):
    async def scenario(books):
        for weird in WEIRD:
            await books.set_tenant(weird)
            await books.set_cap("user", weird, 5000, weird)
            fields = dict.fromkeys(
                ("tenant_id", "user_id", "feature_slug", "service", "key_id", "model", "provider"), weird
            )
            made = await books.reserve(100, request_id=weird, price_version=weird, **fields)
            await books.ledger.settle(settlement(made, 10, finish_reason=weird))
            held = await books.reserve(100, **fields)
            await books.ledger.hold(held, 1)
            assert await books.budget("user", weird, weird) == (5000, 10, 100)
        rows = await books.rows()
        assert len(rows) == 2 * len(WEIRD)
        for row in rows:
            # JSON has several ways to write some characters; msgspec's is taken.
            if "\x7f" not in row.tenant_id:
                assert hash_by_hand(row) == row.row_hash

    run_on_books(tmp_path, scenario)


def test_large_figures_come_back_as_they_were(tmp_path):
    async def scenario(books):
        most = 10**18
        await books.set_tenant(cap=4 * most)
        usage = Usage(*(most // 10,) * 6)
        await books.ledger.settle(settlement(await books.reserve(most), 2 * most, usage=usage))
        (row,) = await books.rows()
        assert (row.cost_nano_usd, row.total_tokens) == (2 * most, 6 * (most // 10))

    run_on_books(tmp_path, scenario)


# Whose attempt it is.


def test_nobody_ends_the_attempt_of_an_instance_that_lives(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        theirs = await other.reserve(100)
        before = await one.budgets()
        assert (
            await ended(
                one.ledger.settle(settlement(theirs, 10)), one.ledger.release(theirs), one.ledger.hold(theirs, 1)
            )
            == ["EpochLost"] * 3
        )
        assert (await one.budgets(), await one.rows(), one.ledger.unwritten) == (before, [], 0)
        await other.ledger.settle(settlement(theirs, 10))
        assert await one.budget() == (10_000, 10, 0)

    run_on_two(tmp_path, scenario)


def test_an_attempt_of_another_does_not_keep_the_rest_of_a_batch_from_ending(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        theirs, mine, free = await other.reserve(100), await one.reserve(100), await one.reserve(100)
        assert await ended(
            one.ledger.settle(settlement(theirs, 10)),
            one.ledger.settle(settlement(mine, 10)),
            one.ledger.release(free),
            one.ledger.release(theirs),
        ) == ["EpochLost", "NoneType", "NoneType", "EpochLost"]
        assert await one.reservations() == {(theirs.request_id, 1): "open"}

    run_on_two(tmp_path, scenario)


def test_a_lost_epoch_settles_nothing_releases_nothing_and_what_it_left_is_held_once(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        made = [reservation(100) for _ in range(6)]
        await asyncio.gather(*(other.admit(each, MINE if each is made[0] else None) for each in made))
        await one.declare_lost(other.epoch)
        assert (
            await ended(
                other.ledger.settle(settlement(made[0], 10, claim=MINE, sealed_answer=b"sealed")),
                other.ledger.release(made[1]),
                other.ledger.hold(made[2], 1),
            )
            == ["EpochLost"] * 3
        )
        assert other.ledger.unwritten == 0
        assert await one.rows() == []
        counts = await asyncio.gather(one.hold_lost(), one.hold_lost(), one.hold_lost())
        assert sum(counts) == 6
        assert await one.budget() == (10_000, 0, 600)
        assert sorted(row.request_id for row in await one.rows()) == sorted(each.request_id for each in made)
        assert {row.status for row in await one.rows()} == {"unknown"}
        with pytest.raises(CallTimeout):
            await one.admit(reservation(), MINE)

        # Nor does it end them in its next life; whoever asks the provider may resolve them.
        await other.membership._turn()
        for each in made[:2]:
            with pytest.raises((InternalError, EpochLost)):
                await other.ledger.settle(settlement(each, 10))
        await other.ledger.settle(settlement(made[0], 30, status="adjustment"))
        assert await one.budget() == (10_000, 30, 500)

    run_on_two(tmp_path, scenario)


def test_what_several_find_at_once_is_held_once(tmp_path):
    async def main():
        clock = FakeClock()
        async with open_books(tmp_path / "db", clock) as one, open_books(tmp_path / "db", clock) as other:
            await one.set_tenant(cap=10**6)
            async with open_books(tmp_path / "db", clock) as dying:
                for _ in range(25):
                    await dying.reserve(100)
            assert await one.declare_lost(dying.epoch)
            counts = await asyncio.gather(*(books.hold_lost() for books in (one, other) * 3))
            assert sum(counts) == 25
            assert len(await one.rows()) == 25
            assert await one.hold_lost() == 0
            assert (await one.verify()).is_consistent

    asyncio.run(main())


def test_settling_and_being_declared_lost_at_once_ends_each_attempt_once(tmp_path):
    async def scenario(one, other):
        await one.set_tenant(cap=10**6)
        for _ in range(5):
            made = [await other.reserve(100) for _ in range(10)]
            settling = [asyncio.create_task(ended(other.ledger.settle(settlement(each, 1)))) for each in made]
            await asyncio.sleep(random.random() / 100)
            assert await one.declare_lost(other.epoch)
            outcomes = [outcome for (outcome,) in await asyncio.gather(*settling)]
            assert set(outcomes) <= {"NoneType", "EpochLost"}
            assert await one.hold_lost() == outcomes.count("EpochLost")
            await other.membership._turn()
        assert len(await one.rows()) == 50

    run_on_two(tmp_path, scenario)


def test_declaring_lost_waits_for_endings_that_run(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        await other.ledger.settle(settlement(await other.reserve(100), 1))
        made = await other.reserve(100)
        holder = await asyncpg.connect(one.database._url)
        async with holder.transaction():
            await holder.execute("SELECT FROM ai_ledger_heads FOR UPDATE")
            settling = asyncio.create_task(ended(other.ledger.settle(settlement(made, 10))))
            await waiting(1)
            declaring = asyncio.create_task(one.declare_lost(other.epoch))
            await waiting(2)
        await holder.close()
        assert await settling == ["NoneType"]
        assert await declaring
        assert await one.hold_lost() == 0

    async def waiting(count):
        async with asyncio.timeout(20):
            while len(shared_server().execute(LOCKED)) < count:
                await asyncio.sleep(0.005)

    run_on_two(tmp_path, scenario)


def test_what_an_instance_kept_for_later_is_not_written_once_it_is_lost(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        settled, released = await other.reserve(100), await other.reserve(100)
        async with read_only(other.database):
            for ending in (other.ledger.settle(settlement(settled, 10)), other.ledger.release(released)):
                with pytest.raises(Unavailable):
                    await ending
            assert other.ledger.unwritten == 2
        await one.declare_lost(other.epoch)
        await other.ledger.flush()
        assert other.ledger.unwritten == 0
        assert await one.hold_lost() == 2
        assert await one.budget() == (10_000, 0, 200)

    run_on_two(tmp_path, scenario)


def test_more_than_is_read_at_once_is_held_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr("tollhouse.budgets.store._LEFT_AT_ONCE", 3)

    async def scenario(one, other):
        await one.set_tenant()
        for _ in range(7):
            await other.reserve(10)
        await one.declare_lost(other.epoch)
        assert [await one.hold_lost() for _ in range(4)] == [3, 3, 1, 0]

    run_on_two(tmp_path, scenario)


def test_whoever_leaves_with_nothing_open_has_stopped_and_what_is_left_open_is_found(tmp_path):
    async def main():
        async with open_books(tmp_path / "db") as one:
            await one.set_tenant()
            async with open_books(tmp_path / "db") as tidy:
                await tidy.ledger.settle(settlement(await tidy.reserve(), 1))
            assert not await one.declare_lost(tidy.epoch)
            async with open_books(tmp_path / "db") as untidy:
                left = await untidy.reserve()
            assert await one.declare_lost(untidy.epoch)
            assert await one.hold_lost() == 1
            assert await one.reservations() == {(left.request_id, 1): "unknown"}

    asyncio.run(main())


# Months.


def test_an_ending_falls_into_the_month_of_its_admission_whoever_opened_it(tmp_path):
    clock = FakeClock("2026-04-30T23:59:59Z")

    async def scenario(one, other):
        await one.set_tenant()
        late = await one.reserve(100)
        clock.set("2026-05-01T00:00:01Z")
        early = await other.reserve(100)
        await asyncio.gather(one.ledger.settle(settlement(late, 10)), other.ledger.settle(settlement(early, 20)))
        assert sorted((row.billing_period, row.cost_nano_usd) for row in await one.rows()) == [
            ("2026-04", 10),
            ("2026-05", 20),
        ]

    run_on_two(tmp_path, scenario, clock=clock)


# Broken connections.


@pytest.mark.parametrize("when", ["before", "after"])
def test_settlements_whose_connection_breaks_are_entered_once(tmp_path, when):
    async def scenario(books):
        await books.set_tenant()
        made = [reservation(100) for _ in range(4)]
        for each in made:
            await books.admit(each, MINE if each is made[0] else None)
        await books.ledger.hold(made[3], 1)
        break_next(books.database, Settlement, when)
        await asyncio.gather(
            books.ledger.settle(settlement(made[0], 10, claim=MINE, sealed_answer=b"sealed")),
            books.ledger.settle(settlement(made[1], 10)),
            books.ledger.hold(made[2], 1),
            books.ledger.settle(settlement(made[3], 20, status="adjustment")),
        )
        assert [row.status for row in await books.rows()] == ["unknown", "settled", "settled", "unknown", "adjustment"]
        assert await books.budget() == (10_000, 40, 100)
        assert await books.admit(reservation(), MINE) == Replay(b"sealed", made[0].request_id)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("when", ["before", "after"])
def test_releases_and_freed_keys_whose_connection_breaks_are_done_once(tmp_path, when):
    async def scenario(books):
        await books.set_tenant()
        made, other = reservation(100), reservation(100)
        await books.admit(made, MINE)
        await books.admit(other)
        break_next(books.database, Release, when)
        await asyncio.gather(books.ledger.release(made), books.ledger.release(other))
        assert await books.budget() == (10_000, 0, 0)
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), MINE)
        break_next(books.database, FreeClaim, when)
        await books.ledger.free(MINE, made.request_id)
        assert isinstance(await books.admit(reservation(), MINE), Admitted)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_lost_ones_left_is_held_once_when_the_connection_breaks(tmp_path, when):
    async def scenario(one, other):
        await one.set_tenant()
        for _ in range(5):
            await other.reserve(100)
        await one.declare_lost(other.epoch)
        break_next(one.database, Settlement, when)
        assert await one.hold_lost() == 5
        assert len(await one.rows()) == 5
        assert await one.hold_lost() == 0

    run_on_two(tmp_path, scenario)


def test_endings_whose_submitters_were_told_undecided_are_written_later_if_they_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_RETRY_EVERY_S", 3600)

    async def scenario(books):
        await books.set_tenant()
        done, failed, lost = [await books.reserve(100) for _ in range(3)]
        statements = books.database._lanes[Settlement]._statements
        settled, released, held = Settlement, Release, FreeClaim
        statements[settled].late(settlement(done, 10), None)
        statements[settled].late(settlement(done, 10), True)
        statements[settled].late(settlement(lost, 10), EpochLost("lost"))
        statements[held].late(FreeClaim(MINE, "req"), InternalError("a defect"))
        assert books.ledger.unwritten == 0
        statements[settled].late(settlement(failed, 10), Unavailable("the disk is full"))
        statements[released].late(Release(done), Unavailable("the disk is full"))
        assert books.ledger.unwritten == 2
        await books.ledger.flush()
        assert await books.reservations() == {(lost.request_id, 1): "open"}

    run_on_books(tmp_path, scenario)
