"""Claims from the gate that takes them to the ledger that answers or frees them."""

import asyncio

import msgspec
import pytest

from harness.books import open_books, reservation, run_on_books, settlement
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    IdempotencyInFlight,
    IdempotencyMismatch,
    ModuleInactive,
)
from tollhouse.gate.admission import Admitted, Replay
from tollhouse.idempotency import store
from tollhouse.idempotency.model import claim
from tollhouse.kit.clock import utc_text

NOON, TOMORROW = "2026-04-10T12:00:00.000Z", "2026-04-11T12:00:00.000Z"
MINE = claim("th_secret", "order-7", b"body", TOMORROW)
OTHER_BODY = claim("th_secret", "order-7", b"another body", TOMORROW)


async def answered(books, with_claim=MINE, sealed=b"sealed"):
    """Admit a call and settle it with an answer."""
    made = reservation()
    await books.admit(made, with_claim)
    await books.ledger.settle(settlement(made, 1, claim=with_claim, sealed_answer=sealed))
    return made


def test_an_answered_claim_is_replayed_and_reserves_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = await answered(books)
        for _ in range(2):
            assert await books.admit(reservation(), MINE) == Replay(b"sealed", first.request_id)
        assert await books.budget() == (10_000, 1, 0)

    run_on_books(tmp_path, scenario)


def test_a_claim_that_is_being_answered_is_in_flight(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.admit(reservation(), MINE)
        with pytest.raises(IdempotencyInFlight) as caught:
            await books.admit(reservation(), MINE)
        assert caught.value.retry_after_s
        assert len(await books.reservations()) == 1

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("is_answered", [True, False])
def test_another_body_is_a_mismatch_whether_the_first_was_answered_or_not(tmp_path, is_answered):
    async def scenario(books):
        await books.set_tenant()
        await (answered(books) if is_answered else books.admit(reservation(), MINE))
        with pytest.raises(IdempotencyMismatch):
            await books.admit(reservation(), OTHER_BODY)

    run_on_books(tmp_path, scenario)


def test_of_many_at_once_one_is_admitted(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        claims = [MINE] * 20 + [OTHER_BODY] * 20
        outcomes = await asyncio.gather(*(books.admit(reservation(), each) for each in claims), return_exceptions=True)
        assert isinstance(outcomes[0], Admitted)
        assert [type(outcome) for outcome in outcomes[1:20]] == [IdempotencyInFlight] * 19
        assert [type(outcome) for outcome in outcomes[20:]] == [IdempotencyMismatch] * 20
        assert await books.budget() == (10_000, 0, 100)

    run_on_books(tmp_path, scenario)


def test_a_refused_call_takes_no_claim(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        with pytest.raises(BudgetExceeded):
            await books.admit(reservation(101), MINE)
        await books.set_tenant(cap=100, is_active=False)
        with pytest.raises(ModuleInactive):
            await books.admit(reservation(100), MINE)
        await books.set_tenant(cap=100)
        assert isinstance(await books.admit(reservation(100), MINE), Admitted)

    run_on_books(tmp_path, scenario)


def test_a_closed_gate_hands_out_no_kept_answer(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await answered(books)
        await books.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await books.admit(reservation(), MINE)

    run_on_books(tmp_path, scenario)


def test_a_freed_claim_can_be_taken_again(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = reservation()
        await books.admit(first, MINE)
        await books.ledger.release(first)
        await books.ledger.free(MINE, first.request_id)
        assert isinstance(await books.admit(reservation(), OTHER_BODY), Admitted)

    run_on_books(tmp_path, scenario)


def test_freeing_touches_neither_an_answer_nor_another_requests_claim(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = await answered(books)
        await books.ledger.free(MINE, first.request_id)
        await books.ledger.free(MINE, "req_of somebody else")
        assert isinstance(await books.admit(reservation(), MINE), Replay)
        other = claim("th_secret", "order-8", b"body", TOMORROW)
        await books.admit(reservation(), other)
        await books.ledger.free(other, "req_of somebody else")
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), other)

    run_on_books(tmp_path, scenario)


def test_an_answer_is_replayed_until_its_time_is_over(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await answered(books)
        books.clock.advance(24 * 3600 - 0.001)
        assert isinstance(await books.admit(reservation(), MINE), Replay)
        books.clock.advance(0.001)
        again = msgspec.structs.replace(OTHER_BODY, expires_at=utc_text(books.clock.now_ms() + 1000))
        second = await answered(books, again, b"sealed again")
        assert await books.admit(reservation(), again) == Replay(b"sealed again", second.request_id)

    run_on_books(tmp_path, scenario)


def test_a_call_that_outlives_its_claims_time_keeps_others_out(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.admit(reservation(), MINE)
        books.clock.advance(25 * 3600)
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), MINE)

    run_on_books(tmp_path, scenario)


def test_a_late_answer_does_not_replace_that_of_a_newer_request(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        slow = reservation()
        await books.admit(slow, MINE)
        await books.ledger.free(MINE, slow.request_id)
        newer = await answered(books, MINE, b"newer")
        await books.ledger.settle(settlement(slow, 1, claim=MINE, sealed_answer=b"late"))
        assert await books.admit(reservation(), MINE) == Replay(b"newer", newer.request_id)

    run_on_books(tmp_path, scenario)


def test_expired_answers_are_forgotten_oldest_first_and_a_bounded_number_at_a_time(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for hour in (12, 10, 11, 14):
            each = claim("th_secret", f"order-{hour}", b"body", f"2026-04-10T{hour}:00:00.000Z")
            books.clock.set("2026-04-10T09:00:00Z")
            await answered(books, each)

        def forget(connection):
            return store.forget_expired(connection, "2026-04-10T12:00:00.000Z", 2)

        assert [await books.database.write(forget) for _ in range(3)] == [2, 1, 0]

    run_on_books(tmp_path, scenario)


def test_a_claim_that_is_being_answered_is_never_taken_for_an_expired_answer(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.admit(reservation(), MINE)
        later = "2027-01-01T00:00:00.000Z"
        assert await books.database.write(lambda connection: store.forget_expired(connection, later, 10)) == 0
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), MINE)

    run_on_books(tmp_path, scenario)


def test_a_lost_claim_makes_no_second_call_until_its_time_is_over_and_is_then_forgotten(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        billed = reservation()
        await books.admit(billed, MINE)
        await books.ledger.hold(billed, 1, MINE)
        await books.ledger.free(MINE, billed.request_id)
        with pytest.raises(CallTimeout, match="may have been billed"):
            await books.admit(reservation(), MINE)
        with pytest.raises(IdempotencyMismatch):
            await books.admit(reservation(), OTHER_BODY)
        assert await books.database.write(lambda connection: store.forget_expired(connection, NOON, 10)) == 0
        assert await books.database.write(lambda connection: store.forget_expired(connection, TOMORROW, 10)) == 1
        assert isinstance(await books.admit(reservation(), OTHER_BODY), Admitted)

    run_on_books(tmp_path, scenario)


def test_a_lost_claim_whose_time_is_over_can_be_taken_before_it_is_forgotten(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        billed = reservation()
        await books.admit(billed, MINE)
        await books.ledger.hold(billed, 1, MINE)
        books.clock.advance(24 * 3600)
        assert isinstance(await books.admit(reservation(), MINE), Admitted)
        with pytest.raises(IdempotencyInFlight):
            await books.admit(reservation(), MINE)

    run_on_books(tmp_path, scenario)


def test_claims_whose_process_died_are_freed_unless_they_may_have_been_billed(tmp_path):
    path = tmp_path / "db"
    free, lost = (claim("th_secret", key, b"body", TOMORROW) for key in ("order-8", "order-9"))

    async def main():
        async with open_books(path) as books:
            await books.set_tenant()
            await answered(books)
            between_attempts, billed = reservation(), reservation()
            await books.admit(between_attempts, free)
            await books.ledger.release(between_attempts)
            await books.admit(billed, lost)
        async with open_books(path) as books:
            assert await books.recover() == 1
            assert isinstance(await books.admit(reservation(), MINE), Replay)
            assert isinstance(await books.admit(reservation(), free), Admitted)
            for _ in range(2):
                with pytest.raises(CallTimeout):
                    await books.admit(reservation(), lost)
            with pytest.raises(IdempotencyMismatch):
                await books.admit(reservation(), msgspec.structs.replace(lost, body_digest="another"))
            assert (await books.verify()).is_consistent

    asyncio.run(main())


@pytest.mark.engine("postgresql")
def test_claims_of_instances_that_live_on_stay_when_another_is_lost(tmp_path):
    path = tmp_path / "db"

    async def main():
        async with open_books(path) as books, open_books(path) as lost_ones:
            await books.set_tenant()
            await books.admit(reservation(), MINE)
            other = claim("th_secret", "order-8", b"body", TOMORROW)
            await lost_ones.admit(reservation(), other)
            assert await books.declare_lost(lost_ones.epoch)
            with pytest.raises(IdempotencyInFlight):
                await books.admit(reservation(), MINE)
            with pytest.raises(CallTimeout):
                await books.admit(reservation(), other)

    asyncio.run(main())
