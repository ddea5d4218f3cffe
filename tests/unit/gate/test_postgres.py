"""Admission by several instances at once: together they admit what one alone would."""

import asyncio
import contextlib
import random

import asyncpg
import pytest

from harness import engines
from harness.books import reservation, run_on_books, run_on_two, settlement
from harness.clock import FakeClock
from harness.database import break_next
from harness.postgres import shared_server
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    EpochLost,
    FeatureDisabled,
    IdempotencyInFlight,
    IdempotencyMismatch,
    InternalError,
    ModuleInactive,
    RateLimited,
    Unavailable,
    Undecided,
)
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.idempotency.model import claim
from tollhouse.kit.clock import utc_text

pytestmark = pytest.mark.engine("postgresql")

TOMORROW = "2026-04-11T12:00:00.000Z"
MINE = claim("th_secret", "order-7", b"body", TOMORROW)


async def at_once(*admitting):
    """Admit all at once; return what came of each."""
    return await asyncio.gather(*admitting, return_exceptions=True)


def names(outcomes):
    return sorted(type(outcome).__name__ for outcome in outcomes)


# Budgets.


@pytest.mark.parametrize("seed", range(3))
def test_two_together_never_spend_more_than_a_cap_allows(tmp_path, seed):
    dice = random.Random(seed)

    async def scenario(one, other):
        await one.set_tenant(cap=2000)
        admitted: dict[int, int] = {1: 0, 2: 0}
        refused = 0

        async def calls(books, number, ceilings):
            nonlocal refused
            for ceiling in ceilings:
                made = reservation(ceiling)
                try:
                    await books.admit(made)
                except BudgetExceeded:
                    refused += 1
                    continue
                admitted[number] += 1
                cap, posted, reserved = await other.budget()
                assert posted + reserved <= cap
                match dice.randrange(4):
                    case 0:
                        await books.ledger.settle(settlement(made, dice.randint(0, ceiling)))
                    case 1:
                        await books.ledger.release(made)
                    case 2:
                        await books.ledger.hold(made, 1)

        async with asyncio.timeout(100):
            await asyncio.gather(
                *(
                    calls(books, number, [dice.randint(1, 300) for _ in range(10)])
                    for number, books in ((1, one), (2, other)) * 6
                )
            )
        assert all(admitted.values())
        assert refused
        cap, posted, reserved = await one.budget()
        assert posted + reserved <= cap

    run_on_two(tmp_path, scenario)


def test_the_last_that_fits_is_admitted_once(tmp_path):
    async def scenario(one, other):
        await one.set_tenant(cap=1000)
        for _ in range(5):
            outcomes = await at_once(*(books.reserve(1000) for books in (one, other) * 5))
            (won,) = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
            assert names(outcomes) == ["BudgetExceeded"] * 9 + ["Reservation"]
            for books in (one, other):
                with contextlib.suppress(InternalError, EpochLost):
                    await books.ledger.release(won)

    run_on_two(tmp_path, scenario)


def test_caps_that_several_tenants_share_hold_for_both(tmp_path):
    async def scenario(one, other):
        for tenant_id in ("42", "43", "44"):
            await one.set_tenant(tenant_id, cap=700)
            await one.set_cap("user", "u", 400, tenant_id=tenant_id)
            await one.set_cap("feature", "f", 500, tenant_id=tenant_id)
        await one.set_cap("key", "k", 1000)
        wanted = [
            books.reserve(50 + 7 * number, tenant_id=tenant_id, user_id=user_id)
            for number in range(8)
            for tenant_id in ("44", "42", "43")
            for user_id in ("u", "v")
            for books in (one, other)
        ]
        async with asyncio.timeout(100):
            outcomes = await at_once(*wanted)
        assert set(names(outcomes)) == {"BudgetExceeded", "Reservation"}
        found = await one.budgets()
        assert all(posted + reserved <= cap for cap, posted, reserved in found.values())
        assert found[one.key("key", "k")][2] > 900

    run_on_two(tmp_path, scenario)


def test_a_month_that_begins_for_both_at_once_begins_once(tmp_path):
    clock = FakeClock("2026-04-30T23:59:00Z")

    async def scenario(one, other):
        for tenant_id in ("42", "43"):
            await one.set_tenant(tenant_id, cap=100)
            await one.set_cap("user", "u", 60, tenant_id=tenant_id)
        await one.set_cap("key", "k", 150)
        for month in ("2026-05", "2026-06", "2027-01"):
            clock.set(f"{month}-01T00:00:00Z")
            callers = [(books, tenant_id) for _ in range(10) for tenant_id in ("42", "43") for books in (one, other)]
            outcomes = await at_once(*(books.reserve(10, tenant_id=tenant_id) for books, tenant_id in callers))
            assert names(outcomes) == ["BudgetExceeded"] * 28 + ["Reservation"] * 12
            assert await other.budget("user", "u", "43") == (60, 0, 60)
            assert await other.budget("key", "k") == (150, 0, 120)
        found = shared_server().execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ai_usage_log'::regclass ORDER BY 1",
            engines.database_name(one.database._url),
        )
        assert [row[0] for row in found] == [f"ai_usage_log_{month}" for month in ("2026_05", "2026_06", "2027_01")]

    run_on_two(tmp_path, scenario, clock=clock)


@pytest.mark.parametrize("seed", range(3))
def test_caps_that_are_set_while_both_admit_count_what_was_spent_and_reserved(tmp_path, seed):
    """Verifying, in the end, compares every row with the ledger and the reservations."""
    dice = random.Random(seed)

    async def scenario(one, other):
        for tenant_id in ("42", "43"):
            await one.set_tenant(tenant_id)
        is_over = asyncio.Event()

        async def calls(books):
            while not is_over.is_set():
                made = reservation(
                    dice.randint(1, 100),
                    at=f"{books.period}-10T12:00:00.000Z",
                    tenant_id=dice.choice(["42", "43"]),
                    user_id=dice.choice(["", "u", "v"]),
                )
                with contextlib.suppress(BudgetExceeded):
                    await books.admit(made)
                    if dice.random() < 0.7:
                        await books.ledger.settle(settlement(made, dice.randint(0, made.ceiling_nano_usd)))

        async def caps(books):
            for number in range(30):
                tenant_id = dice.choice(["42", "43"])
                match dice.randrange(6):
                    case 0:
                        await books.set_tenant(tenant_id, cap=dice.randint(2000, 20_000))
                    case 1:
                        await books.lift_cap("user", "u", tenant_id)
                    case 2:
                        await books.set_cap("key", "k", dice.randint(2000, 20_000))
                    case 3:
                        await books.lift_cap("key", "k")
                    case 4:
                        await books.set_cap("feature", "f", dice.randint(2000, 20_000), tenant_id)
                    case 5:
                        await books.set_cap("user", "u", dice.randint(2000, 20_000), tenant_id)
                if number % 10 == 9 and books is one:
                    books.clock.advance(30 * 24 * 3600)

        calling = [asyncio.create_task(calls(books)) for books in (one, other) * 3]
        async with asyncio.timeout(100):
            await asyncio.gather(caps(one), caps(other))
            is_over.set()
            await asyncio.gather(*calling)

    run_on_two(tmp_path, scenario)


def test_a_gate_that_one_closes_is_closed_for_the_other_with_the_next_call(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        await other.reserve()
        await one.set_feature("f", is_enabled=False)
        with pytest.raises(FeatureDisabled):
            await other.reserve()
        await one.set_tenant(is_active=False)
        with pytest.raises(ModuleInactive):
            await other.reserve()
        await other.set_tenant(cap=5)
        await other.set_feature("f", is_enabled=True)
        with pytest.raises(BudgetExceeded):
            await one.reserve(6)

    run_on_two(tmp_path, scenario)


# The rate limit.


def test_the_rate_limit_holds_for_both_together(tmp_path):
    async def scenario(one, other):
        for tenant_id in ("42", "43"):
            await one.set_tenant(tenant_id)
        for passed in (10, 1, 3):
            callers = [(books, tenant_id) for _ in range(15) for tenant_id in ("42", "43") for books in (one, other)]
            outcomes = await at_once(*(books.reserve(1, tenant_id=tenant_id) for books, tenant_id in callers))
            assert names(outcomes) == ["RateLimited"] * (60 - 2 * passed) + ["Reservation"] * (2 * passed)
            refusals = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
            assert all(0 < (refusal.retry_after_s or 0) <= 60 for refusal in refusals)
            await one.pass_time(60 if passed == 10 else 180)

    run_on_two(tmp_path, scenario, requests_per_minute=1, burst=10)


# Idempotency keys.


def test_of_the_same_key_at_both_at_once_one_is_admitted(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        for number in range(8):
            mine, theirs = (claim("th_secret", f"order-{number}", body, TOMORROW) for body in (b"body", b"another"))
            outcomes = await at_once(
                *(books.admit(reservation(1), each) for each in (mine, theirs, mine) for books in (one, other))
            )
            admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
            assert len(admitted) == 1
            refusals = {type(outcome) for outcome in outcomes} - {Admitted}
            assert refusals == {IdempotencyInFlight, IdempotencyMismatch}
        assert (await one.budget())[2] == 8

    run_on_two(tmp_path, scenario)


def test_of_the_same_key_for_two_tenants_at_once_one_is_admitted(tmp_path):
    """They share no budget's lock: the row of the key alone decides."""

    async def scenario(one, other):
        for tenant_id in ("42", "43"):
            await one.set_tenant(tenant_id)
        for number in range(20):
            mine, theirs = (claim("th_secret", f"order-{number}", body, TOMORROW) for body in (b"body", b"another"))
            outcomes = await at_once(
                one.admit(reservation(1, tenant_id="42"), mine), other.admit(reservation(1, tenant_id="43"), theirs)
            )
            assert names(outcomes) == ["Admitted", "IdempotencyMismatch"]
        assert (await one.budget())[2] + (await one.budget(tenant_id="43"))[2] == 20

    run_on_two(tmp_path, scenario)


def test_what_one_has_answered_the_other_replays(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        made = reservation()
        await one.admit(made, MINE)
        with pytest.raises(IdempotencyInFlight):
            await other.admit(reservation(), MINE)
        await one.ledger.settle(settlement(made, 40, claim=MINE, sealed_answer=b"sealed"))
        assert await other.admit(reservation(), MINE) == Replay(b"sealed", made.request_id)

    run_on_two(tmp_path, scenario)


def test_a_key_whose_time_is_over_is_taken_again_by_one_of_both(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        for number in range(5):
            key, made = f"order-{number}", reservation()
            first = claim("th_secret", key, b"body", utc_text(one.clock.now_ms() + 1000))
            await one.admit(made, first)
            await one.ledger.settle(settlement(made, 1, claim=first, sealed_answer=b"sealed"))
            one.clock.advance(1)
            again = [claim("th_secret", key, body, "2030-01-01T00:00:00.000Z") for body in (b"new", b"newer")]
            outcomes = await at_once(*(books.admit(reservation(1), each) for each in again for books in (one, other)))
            assert sum(isinstance(outcome, Admitted) for outcome in outcomes) == 1

    run_on_two(tmp_path, scenario)


# Lost epochs.


def test_a_lost_epoch_admits_nothing(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        assert await one.declare_lost(other.epoch)
        assert not await one.declare_lost(other.epoch)
        outcomes = await at_once(*(other.reserve() for _ in range(3)), other.admit(reservation(), MINE))
        assert names(outcomes) == ["EpochLost"] * 4
        assert await one.reservations() == {}
        assert isinstance(await one.admit(reservation(), MINE), Admitted)

    run_on_two(tmp_path, scenario)


def test_in_its_next_life_an_instance_admits_again_but_goes_on_with_no_call_of_the_one_before(tmp_path):
    async def scenario(one, other):
        await one.set_tenant()
        first = reservation()
        admitted = await other.admit(first)
        assert admitted.may_dispatch()
        await one.declare_lost(other.epoch)
        await other.membership._turn()
        assert other.epoch != admitted.epoch
        assert not admitted.may_dispatch()
        second, alone = reservation(request_id=first.request_id, attempt=2), reservation()
        further = Admission(second, is_first=False, epoch=admitted.epoch)
        outcomes = await at_once(other.gate.admit(further), other.admit(alone))
        assert names(outcomes) == ["Admitted", "EpochLost"]
        assert outcomes[1].epoch == other.epoch
        outcomes = await at_once(other.gate.admit(further))
        assert names(outcomes) == ["EpochLost"]
        await one.hold_lost()
        assert await one.reservations() == {(first.request_id, 1): "unknown", (alone.request_id, 1): "open"}

    run_on_two(tmp_path, scenario)


def test_what_was_admitted_may_be_dispatched_while_the_lease_holds(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        admitted = await books.admit(reservation())
        assert admitted.may_dispatch()
        books.clock.advance(7.5)
        assert not admitted.may_dispatch()
        await books.membership._turn()
        assert admitted.may_dispatch()

    run_on_books(tmp_path, scenario)


def test_declaring_lost_waits_for_batches_that_run(tmp_path):
    """What a batch admits before the declaration is seen by it; whatever comes later is refused."""

    async def scenario(one, other):
        await one.set_tenant(cap=10**9)
        for _ in range(5):
            claims = [claim("th_secret", f"{other.epoch}-{number}", b"body", TOMORROW) for number in range(20)]
            calls = [asyncio.create_task(other.admit(reservation(1), each)) for each in claims]
            await asyncio.sleep(random.random() / 100)
            assert await one.declare_lost(other.epoch)
            outcomes = await at_once(*calls)
            for each, outcome in zip(claims, outcomes, strict=True):
                if isinstance(outcome, Admitted):
                    with pytest.raises(CallTimeout):
                        await one.admit(reservation(1), each)
                else:
                    assert isinstance(outcome, EpochLost)
                    await one.admit(reservation(1), each)
            held = await one.hold_lost()
            assert held == sum(isinstance(outcome, Admitted) for outcome in outcomes)
            await other.membership._turn()

    run_on_two(tmp_path, scenario)


# Broken connections, and callers that no longer wait.


def test_an_admission_whose_answer_is_lost_is_found_and_reserved_once(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        break_next(books.database, Admission, "after")
        outcomes = await at_once(books.admit(reservation(), MINE), books.admit(reservation()))
        assert names(outcomes) == ["Admitted"] * 2
        assert all(outcome.may_dispatch() for outcome in outcomes)
        assert await books.budget() == (10_000, 0, 200)

    run_on_books(tmp_path, scenario)


def test_an_admission_that_did_not_arrive_is_refused_and_reserves_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        break_next(books.database, Admission, "before")
        outcomes = await at_once(books.admit(reservation(), MINE), books.admit(reservation()))
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2
        assert await books.budget() == (10_000, 0, 0)
        assert isinstance(await books.admit(reservation(), MINE), Admitted)

    run_on_books(tmp_path, scenario)


def test_refusals_whose_answer_is_lost_reserve_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=100)
        break_next(books.database, Admission, "after")
        outcomes = await at_once(books.reserve(101), books.reserve(60), books.reserve(41))
        assert names(outcomes) == ["Reservation", "Unavailable", "Unavailable"]
        assert await books.budget() == (100, 0, 60)

    run_on_books(tmp_path, scenario)


def test_who_is_admitted_after_waiting_too_long_gives_all_of_it_back(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for lane in books.database._open_lanes:
            lane._patience_s = 0.5
        holder = await asyncpg.connect(books.database._url)
        async with holder.transaction():
            await holder.execute("SELECT FROM ai_budgets FOR UPDATE")
            with pytest.raises(Undecided):
                await books.admit(reservation(), MINE)
            assert await books.reservations() == {}
        await holder.close()
        async with asyncio.timeout(20):
            while books.ledger.unwritten < 2:
                await asyncio.sleep(0.005)
        assert len(await books.reservations()) == 1
        await books.ledger.flush()
        assert await books.budget() == (10_000, 0, 0)
        assert isinstance(await books.admit(reservation(), MINE), Admitted)

    run_on_books(tmp_path, scenario)
