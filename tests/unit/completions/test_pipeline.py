"""The hot path: every way through it and out of it, and what each leaves in the books."""

import asyncio
import functools

import pytest

from harness.books import open_books, run_on_books
from harness.database import read_only, refuse_writes, take_writes
from harness.providers import Desk, Held, PlainAdapter, Provider, answer, lost
from tollhouse.audit import store as audit
from tollhouse.completions import failover
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    InternalError,
    InvalidRequest,
    ModuleInactive,
    ProviderRejected,
    RateLimited,
    Unavailable,
)
from tollhouse.providers.base import NotSent, Overloaded, Rejected, TimedOut, WireResponse
from tollhouse.providers.usage import Usage

pytestmark = pytest.mark.usefixtures("on_each_engine")

CAP = 10_000_000
COST = 15_000
"""Of the answer that providers give unless told otherwise."""

CANNOT_REACH = NotSent("connection refused")
BUSY = Overloaded("busy", status=503)
REJECTED = Rejected("bad schema", status=400)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", (0.0, 0.0))


def run_on_desk(tmp_path, scenario, *providers, **how):
    """Run ``scenario(desk)``: its models are small, other and third, as far as there are providers."""

    async def on_books(books):
        await books.set_tenant(cap=CAP)
        names = ("small", "other", "third")
        await scenario(Desk(books, dict(zip(names, providers or [Provider()], strict=False)), **how))

    run_on_books(tmp_path, on_books)


async def switches(desk):
    """Return which model each audited switch went to."""
    await desk.journal.flush()
    entries = await desk.books.database.read(
        lambda connection: audit.page(connection, tenant_id="42", action="provider.switched", before_id=None, limit=9)
    )
    return [entry.after["model"] for _, entry in reversed(entries)]


async def rows(desk):
    return [(row.model, row.attempt, row.status) for row in await desk.books.rows()]


async def leaves_nothing_held(desk, posted=0):
    assert await desk.books.reservations() == {}
    assert await desk.books.budget() == (CAP, posted, 0)


# What becomes of a call.


def test_a_served_call_is_settled_before_its_answer_is_given(tmp_path):
    async def scenario(desk):
        served = await desk.complete()
        assert b'"content":"four"' in served.body
        assert not served.replayed
        (row,) = await desk.books.rows()
        assert (row.request_id, row.status, row.cost_nano_usd) == (served.request_id, "settled", COST)
        await leaves_nothing_held(desk, posted=COST)

    run_on_desk(tmp_path, scenario)


def test_the_ceiling_is_reserved_durably_while_the_provider_is_called(tmp_path):
    async def scenario(desk):
        held = Held()
        desk_provider.steps = [held]
        call = desk.plan()
        serving = asyncio.create_task(desk.pipeline.complete(call))
        await held.reached.wait()
        assert await desk.books.reservations() == {(call.request_id, 1): "open"}
        assert await desk.books.budget() == (CAP, 0, call.ceiling_nano_usd)
        held.let_go.set()
        await serving
        await leaves_nothing_held(desk, posted=COST)

    desk_provider = Provider()
    run_on_desk(tmp_path, scenario, desk_provider)


@pytest.mark.parametrize(
    ("step", "refusal", "calls"),
    [(CANNOT_REACH, Unavailable, 2), (BUSY, Unavailable, 2), (REJECTED, ProviderRejected, 1)],
)
def test_what_a_provider_does_not_bill_is_released(tmp_path, step, refusal, calls):
    async def scenario(desk):
        with pytest.raises(refusal):
            await desk.complete()
        assert desk.called == ["small"] * calls
        assert await rows(desk) == []
        await leaves_nothing_held(desk)

    run_on_desk(tmp_path, scenario, Provider(step))


@pytest.mark.parametrize(
    ("step", "refusal"),
    [
        (TimedOut("too slow"), CallTimeout),
        (lost(), Unavailable),
        (RuntimeError("a defect"), InternalError),
        (WireResponse(200, {}, b"no answer"), InternalError),
    ],
)
def test_what_may_have_been_billed_is_held_and_never_tried_again(tmp_path, step, refusal):
    async def scenario(desk):
        call = desk.plan()
        with pytest.raises(refusal):
            await desk.pipeline.complete(call)
        assert desk.called == ["small"]
        assert await rows(desk) == [("small", 1, "unknown")]
        assert await desk.books.reservations() == {(call.request_id, 1): "unknown"}
        assert await desk.books.budget() == (CAP, 0, call.ceiling_nano_usd)

    run_on_desk(tmp_path, scenario, Provider(step), Provider())


def test_a_closed_gate_a_full_budget_and_a_reached_limit_call_no_provider(tmp_path):
    async def on_books(books):
        desk = Desk(books, {"small": Provider()})
        with pytest.raises(ModuleInactive):
            await desk.complete()
        await books.set_tenant(cap=COST)
        with pytest.raises(BudgetExceeded):
            await desk.complete()
        await books.set_tenant(cap=CAP)
        await desk.complete()
        with pytest.raises(RateLimited):
            await desk.complete()
        assert desk.called == ["small"]
        await leaves_nothing_held(desk, posted=COST)

    run_on_books(tmp_path, on_books, requests_per_minute=1, burst=1)


def test_a_usage_above_the_ceiling_is_posted_in_full(tmp_path):
    async def scenario(desk):
        await desk.complete()
        await leaves_nothing_held(desk, posted=2 * CAP)
        with pytest.raises(BudgetExceeded):
            await desk.complete()

    run_on_desk(tmp_path, scenario, Provider(answer(usage=Usage(output_tokens=2 * CAP // 1000))))


def test_a_call_that_costs_nothing_is_a_row_too(tmp_path):
    async def scenario(desk):
        await desk.complete()
        assert await rows(desk) == [("small", 1, "settled")]
        await leaves_nothing_held(desk)

    run_on_desk(tmp_path, scenario, Provider(answer(usage=Usage())))


def test_a_call_that_the_primary_cannot_express_is_refused_before_anything_is_reserved(tmp_path):
    async def scenario(desk):
        with pytest.raises(InvalidRequest, match="temperature"):
            await desk.complete(key="order-7")
        assert desk.called == []
        await leaves_nothing_held(desk)

    run_on_desk(tmp_path, scenario, Provider(), Provider(), changes={"small": {"adapter": Particular()}})


def test_a_cancelled_call_stays_reserved_for_the_next_start_to_find(tmp_path):
    async def scenario(desk):
        held = Held()
        provider.steps = [held]
        call = desk.plan()
        serving = asyncio.create_task(desk.pipeline.complete(call))
        await held.reached.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await desk.books.reservations() == {(call.request_id, 1): "open"}

    async def next_start():
        async with open_books(tmp_path / "books.db") as books:
            assert await books.recover() == 1
            assert [row.status for row in await books.rows()] == ["unknown"]

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider)
    asyncio.run(next_start())


# Failover.


class Particular(PlainAdapter):
    """An adapter for a vendor that knows no temperature."""

    def encode(self, request):
        raise InvalidRequest("temperature: this vendor knows none")


@pytest.mark.parametrize("failure", [CANNOT_REACH, BUSY])
def test_the_primary_is_tried_once_more(tmp_path, failure):
    async def scenario(desk):
        await desk.complete()
        assert desk.called == ["small", "small"]
        assert await rows(desk) == [("small", 2, "settled")]
        assert await switches(desk) == []
        await leaves_nothing_held(desk, posted=COST)

    run_on_desk(tmp_path, scenario, Provider(failure, answer()), Provider())


def test_then_the_fallbacks_are_tried_in_their_order_and_each_switch_is_audited(tmp_path):
    async def scenario(desk):
        served = await desk.complete()
        assert desk.called == ["small", "small", "other", "third"]
        assert await rows(desk) == [("third", 4, "settled")]
        assert await switches(desk) == ["other", "third"]
        assert b'"model":"third"' in served.body
        assert b'"fallback_used":true' in served.body
        await leaves_nothing_held(desk, posted=COST)

    run_on_desk(tmp_path, scenario, Provider(BUSY), Provider(CANNOT_REACH), Provider())


def test_when_nobody_answers_the_last_failure_is_told(tmp_path):
    async def scenario(desk):
        with pytest.raises(Unavailable, match="other inc cannot be reached") as caught:
            await desk.complete()
        assert caught.value.retry_after_s
        assert desk.called == ["small", "small", "other"]
        await leaves_nothing_held(desk)

    run_on_desk(tmp_path, scenario, Provider(BUSY), Provider(CANNOT_REACH))


@pytest.mark.parametrize(
    ("second", "refusal"), [(REJECTED, ProviderRejected), (TimedOut("too slow"), CallTimeout), (lost(), Unavailable)]
)
def test_failover_ends_where_another_attempt_could_pay_twice_or_fare_no_better(tmp_path, second, refusal):
    async def scenario(desk):
        with pytest.raises(refusal):
            await desk.complete()
        assert desk.called == ["small", "small", "other"]
        held = [] if second is REJECTED else [("other", 3, "unknown")]
        assert await rows(desk) == held

    run_on_desk(tmp_path, scenario, Provider(BUSY), Provider(second), Provider())


def test_a_fallback_that_cannot_express_the_call_is_passed_over(tmp_path):
    async def scenario(desk):
        await desk.complete()
        assert desk.called == ["small", "small", "third"]
        assert await rows(desk) == [("third", 3, "settled")]
        assert await switches(desk) == ["third"]

    changes = {"other": {"adapter": Particular()}}
    run_on_desk(tmp_path, scenario, Provider(BUSY), Provider(), Provider(), changes=changes)


def test_no_attempt_follows_a_402(tmp_path):
    async def scenario(desk):
        async def spend_the_rest():
            await desk.books.set_tenant(cap=1)
            raise BUSY

        provider.steps = [spend_the_rest]
        with pytest.raises(BudgetExceeded):
            await desk.complete()
        assert desk.called == ["small"]
        assert await desk.books.reservations() == {}

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider, Provider())


def test_a_gate_that_closes_between_attempts_ends_the_call(tmp_path):
    async def scenario(desk):
        async def close():
            await desk.books.set_tenant(cap=CAP, is_active=False)
            raise BUSY

        provider.steps = [close]
        with pytest.raises(ModuleInactive):
            await desk.complete()
        assert desk.called == ["small"]
        await leaves_nothing_held(desk)

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider, Provider())


def test_further_attempts_are_one_call_to_the_rate_limit(tmp_path):
    async def on_books(books):
        await books.set_tenant(cap=CAP)
        desk = Desk(books, {"small": Provider(BUSY), "other": Provider()})
        await desk.complete()
        assert desk.called == ["small", "small", "other"]

    run_on_books(tmp_path, on_books, requests_per_minute=1, burst=1)


def test_a_provider_that_asks_for_a_long_pause_is_not_waited_for(tmp_path):
    async def scenario(desk):
        await desk.complete()
        assert desk.called == ["small", "other"]

    run_on_desk(tmp_path, scenario, Provider(Overloaded("busy", status=429, retry_after_s=30.0)), Provider())


def test_a_short_pause_that_a_provider_asks_for_is_kept(tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(asyncio, "sleep", functools.partial(_note, slept, asyncio.sleep))

    async def scenario(desk):
        await desk.complete()
        assert desk.called == ["small", "small"]
        # The database gives way to others meanwhile.
        assert [delay_s for delay_s in slept if delay_s] == [0.7]

    run_on_desk(tmp_path, scenario, Provider(Overloaded("busy", status=429, retry_after_s=0.7), answer()))


async def _note(slept, sleep, delay_s):
    slept.append(delay_s)
    await sleep(0)


def test_no_attempt_begins_after_the_calls_deadline(tmp_path):
    async def scenario(desk):
        async def outlive():
            # The deadline is by the loop's clock; the provider fails just after it.
            await asyncio.sleep(0.55)
            raise BUSY

        provider.steps = [outlive]
        with pytest.raises(Unavailable):
            await desk.complete({"timeout_s": 0.5})
        assert desk.called == ["small"]
        await leaves_nothing_held(desk)

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider, Provider())


# When the database cannot be written.


def test_without_a_reservation_nothing_is_dispatched(tmp_path):
    async def scenario(desk):
        async with read_only(desk.books.database):
            with pytest.raises(Unavailable, match="ledger cannot be written"):
                await desk.complete()
        assert desk.called == []
        await leaves_nothing_held(desk)

    run_on_desk(tmp_path, scenario)


@pytest.mark.parametrize(
    ("step", "status", "posted"), [(answer(), "settled", COST), (BUSY, None, 0), (lost(), "unknown", 0)]
)
def test_an_end_that_cannot_be_written_is_a_503_now_and_is_written_later(tmp_path, step, status, posted):
    async def scenario(desk):
        async def break_the_database():
            await refuse_writes(desk.books.database)
            if isinstance(step, Exception):
                raise step
            return step

        provider.steps = [break_the_database]
        call = desk.plan()
        with pytest.raises(Unavailable):
            await desk.pipeline.complete(call)
        await take_writes(desk.books.database)
        assert desk.called == ["small"]
        assert await desk.books.budget() == (CAP, 0, call.ceiling_nano_usd)
        await desk.books.ledger.flush()
        assert await rows(desk) == ([("small", 1, status)] if status else [])
        assert await desk.books.budget() == (CAP, posted, call.ceiling_nano_usd if status == "unknown" else 0)

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider, Provider())
