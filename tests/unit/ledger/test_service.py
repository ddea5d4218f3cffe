"""What the ledger does with the ends of attempts that the database cannot take, and with those nobody ended."""

import asyncio

import pytest

from harness.books import open_books, reservation, run_on_books, settlement
from harness.database import read_only
from tollhouse.errors import CallTimeout, IdempotencyInFlight, Unavailable
from tollhouse.gate.admission import Replay
from tollhouse.idempotency.model import claim
from tollhouse.ledger import service

MINE = claim("th_secret", "order-7", b"body", "2026-04-11T12:00:00.000Z")


def test_an_end_that_cannot_be_written_is_kept_with_its_money_reserved_and_written_later(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        settled, released, held = [await books.reserve(100) for _ in range(3)]
        async with read_only(books.database):
            for ending in (
                books.ledger.settle(settlement(settled, 40)),
                books.ledger.release(released),
                books.ledger.hold(held, 1),
            ):
                with pytest.raises(Unavailable):
                    await ending
            assert books.ledger.unwritten == 3
            assert await books.budget() == (10_000, 0, 300)
            await books.ledger.flush()
            assert books.ledger.unwritten == 3
        await books.ledger.flush()
        assert books.ledger.unwritten == 0
        assert await books.budget() == (10_000, 40, 100)
        assert await books.reservations() == {(held.request_id, 1): "unknown"}
        assert [row.status for row in await books.rows()] == ["settled", "unknown"]

    run_on_books(tmp_path, scenario)


def test_an_answer_that_could_not_be_written_is_replayed_once_it_is(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = reservation()
        await books.admit(made, MINE)
        async with read_only(books.database):
            with pytest.raises(Unavailable):
                await books.ledger.settle(settlement(made, 40, claim=MINE, sealed_answer=b"sealed"))
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), MINE)
        await books.ledger.flush()
        assert await books.admit(reservation(), MINE) == Replay(b"sealed", made.request_id)

    run_on_books(tmp_path, scenario)


def test_what_is_kept_is_written_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_RETRY_EVERY_S", 0.001)

    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(100)
        keeping = asyncio.create_task(books.ledger.keep_writing())
        async with read_only(books.database):
            with pytest.raises(Unavailable):
                await books.ledger.release(made)
            for _ in range(5):
                await asyncio.sleep(0.002)
            assert await books.reservations() == {(made.request_id, 1): "open"}
        async with asyncio.timeout(20):
            while await books.reservations():
                await asyncio.sleep(0.001)
        keeping.cancel()

    run_on_books(tmp_path, scenario)


def test_an_end_that_does_not_fit_the_ledger_does_not_keep_the_others_from_it(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        twice, other = await books.reserve(100), await books.reserve(100)
        async with read_only(books.database):
            for ending in (
                books.ledger.settle(settlement(twice, 10)),
                books.ledger.settle(settlement(twice, 10)),
                books.ledger.settle(settlement(other, 10)),
            ):
                with pytest.raises(Unavailable):
                    await ending
        await books.ledger.flush()
        assert books.ledger.unwritten == 0
        assert await books.budget() == (10_000, 20, 0)

    run_on_books(tmp_path, scenario)


def test_a_defect_in_writing_one_end_loses_none_of_the_others(tmp_path, monkeypatch):
    async def scenario(books):
        await books.set_tenant()
        first, second = await books.reserve(100), await books.reserve(100)
        async with read_only(books.database):
            for made in (first, second):
                with pytest.raises(Unavailable):
                    await books.ledger.release(made)
        submit, defects = books.database.submit, [RuntimeError("a defect")]

        def failing_once(operation):
            future = submit(operation) if not defects else asyncio.get_running_loop().create_future()
            if defects:
                future.set_exception(defects.pop())
            return future

        monkeypatch.setattr(books.database, "submit", failing_once)
        await books.ledger.flush()
        assert books.ledger.unwritten == 0
        assert await books.reservations() == {(first.request_id, 1): "open"}

    run_on_books(tmp_path, scenario)


def test_what_was_in_flight_when_the_process_died_is_held_as_unknown_at_the_next_start(tmp_path):
    async def main():
        async with open_books(tmp_path / "db") as books:
            await books.set_tenant()
            await books.ledger.settle(settlement(await books.reserve(100), 10))
            held_before = await books.reserve(100)
            await books.ledger.hold(held_before, 1)
            lost = [reservation(100), reservation(100)]
            await books.admit(lost[0], MINE)
            await books.admit(lost[1])
            assert await books.budget() == (10_000, 10, 300)
        async with open_books(tmp_path / "db") as books:
            assert await books.recover() == 2
            assert await books.recover() == 0
            assert await books.budget() == (10_000, 10, 300)
            assert set((await books.reservations()).values()) == {"unknown"}
            rows = await books.rows()
            assert [row.status for row in rows] == ["settled", "unknown", "unknown", "unknown"]
            assert [row.request_id for row in rows[2:]] == sorted(each.request_id for each in lost)
            assert (await books.verify()).is_consistent
            with pytest.raises(CallTimeout):
                await books.admit(reservation(), MINE)

    asyncio.run(main())


def test_a_first_start_has_nothing_to_recover(tmp_path):
    async def scenario(books):
        assert await books.recover() == 0

    run_on_books(tmp_path, scenario)
