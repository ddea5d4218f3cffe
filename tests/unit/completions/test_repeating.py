"""The same Idempotency-Key again: the first answer byte for byte, and never a second payment for it."""

import asyncio

import pytest

from harness.books import run_on_books
from harness.database import read_only, refuse_writes, take_writes
from harness.providers import Desk, Held, Provider, answer, lost
from tollhouse.completions import failover
from tollhouse.completions.call import Answer
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    IdempotencyInFlight,
    IdempotencyMismatch,
    ProviderRejected,
    TollhouseError,
    Unavailable,
)
from tollhouse.providers.base import NotSent, Overloaded, Rejected, TimedOut

pytestmark = pytest.mark.usefixtures("on_each_engine")

CAP = 10_000_000
COST = 15_000
KEY = "order-7"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", (0.0, 0.0))


def run_on_desk(tmp_path, scenario, provider, *fallbacks):
    async def on_books(books):
        await books.set_tenant(cap=CAP)
        await scenario(Desk(books, dict(zip(("small", "other"), [provider, *fallbacks], strict=False))))

    run_on_books(tmp_path, on_books)


def test_the_first_answer_comes_again_byte_for_byte_without_a_second_call(tmp_path):
    async def scenario(desk):
        first = await desk.complete(key=KEY)
        desk.books.clock.advance(3600)
        for _ in range(3):
            assert await desk.complete(key=KEY) == Answer(first.body, first.request_id, replayed=True)
        assert desk.called == ["small"]
        assert await desk.books.budget() == (CAP, COST, 0)

    run_on_desk(tmp_path, scenario, Provider(answer("one"), answer("two")))


def test_a_fallbacks_answer_is_kept_too(tmp_path):
    async def scenario(desk):
        first = await desk.complete(key=KEY)
        assert (await desk.complete(key=KEY)).body == first.body
        assert desk.called == ["small", "small", "other"]

    run_on_desk(tmp_path, scenario, Provider(Overloaded("busy", status=503)), Provider())


def test_another_key_another_caller_or_none_is_another_call(tmp_path):
    async def scenario(desk):
        await desk.complete(key=KEY)
        await desk.complete(key="order-8")
        await desk.complete(key=KEY, api_key="th_another")
        await desk.complete()
        assert len(desk.called) == 4

    run_on_desk(tmp_path, scenario, Provider())


@pytest.mark.parametrize("fields", [{"max_tokens": 101}, {"tenant_id": 43}, {"temperature": 0.0}, {"stop": "x"}])
def test_another_body_under_the_same_key_is_a_mismatch(tmp_path, fields):
    async def scenario(desk):
        await desk.books.set_tenant("43", cap=CAP)
        await desk.complete(key=KEY)
        with pytest.raises(IdempotencyMismatch):
            await desk.complete(fields, key=KEY)
        assert desk.called == ["small"]

    run_on_desk(tmp_path, scenario, Provider())


def test_many_at_once_pay_once(tmp_path):
    async def scenario(desk):
        outcomes = await asyncio.gather(*(desk.complete(key=KEY) for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(outcome, Answer) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, IdempotencyInFlight) for outcome in outcomes) == 49
        assert desk.called == ["small"]
        assert (await desk.complete(key=KEY)).replayed

    run_on_desk(tmp_path, scenario, Provider())


def test_while_the_first_is_being_answered_the_next_is_told_to_come_back(tmp_path):
    async def scenario(desk):
        held = Held()
        provider.steps = [held]
        first = asyncio.create_task(desk.complete(key=KEY))
        await held.reached.wait()
        with pytest.raises(IdempotencyInFlight) as caught:
            await desk.complete(key=KEY)
        assert caught.value.retry_after_s
        held.let_go.set()
        answered = await first
        assert (await desk.complete(key=KEY)).body == answered.body

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider)


@pytest.mark.parametrize(
    ("step", "refusal"),
    [
        (NotSent("refused"), Unavailable),
        (Overloaded("busy", status=503), Unavailable),
        (Rejected("bad schema", status=400), ProviderRejected),
    ],
)
def test_a_key_whose_call_cost_nothing_is_free_for_a_retry(tmp_path, step, refusal):
    async def scenario(desk):
        with pytest.raises(refusal):
            await desk.complete(key=KEY)
        provider.steps = [answer("now")]
        assert b'"now"' in (await desk.complete(key=KEY)).body
        assert await desk.books.budget() == (CAP, COST, 0)

    provider = Provider(step)
    run_on_desk(tmp_path, scenario, provider)


@pytest.mark.parametrize("step", [TimedOut("too slow"), lost(), RuntimeError("a defect")])
def test_a_key_whose_call_may_have_been_billed_makes_no_second_call(tmp_path, step):
    async def scenario(desk):
        with pytest.raises(TollhouseError):
            await desk.complete(key=KEY)
        provider.steps = [answer("now")]
        call = desk.plan(key=KEY)
        with pytest.raises(CallTimeout, match="send a new key"):
            await desk.pipeline.complete(call)
        assert await desk.books.budget() == (CAP, 0, call.ceiling_nano_usd)

    provider = Provider(step)
    run_on_desk(tmp_path, scenario, provider)


def test_a_refused_call_leaves_its_key_free(tmp_path):
    async def scenario(desk):
        await desk.books.set_tenant(cap=1)
        with pytest.raises(BudgetExceeded):
            await desk.complete(key=KEY)
        await desk.books.set_tenant(cap=CAP)
        await desk.complete(key=KEY)

    run_on_desk(tmp_path, scenario, Provider())


@pytest.mark.parametrize("step", [answer(), lost()])
def test_an_end_that_could_not_be_written_is_not_paid_for_again_even_if_the_database_heals_at_once(tmp_path, step):
    async def scenario(desk):
        ledger = desk.books.ledger

        def on_a_full_disk(end):
            async def ending(*what):
                async with read_only(desk.books.database):
                    await end(*what)

            return ending

        ledger.settle, ledger.hold = on_a_full_disk(ledger.settle), on_a_full_disk(ledger.hold)
        with pytest.raises(Unavailable):
            await desk.complete(key=KEY)
        with pytest.raises(IdempotencyInFlight):
            await desk.complete(key=KEY)
        await ledger.flush()
        if isinstance(step, Exception):
            with pytest.raises(CallTimeout):
                await desk.complete(key=KEY)
        else:
            assert (await desk.complete(key=KEY)).replayed
        assert desk.called == ["small"]

    run_on_desk(tmp_path, scenario, Provider(step))


def test_a_key_that_could_not_be_freed_is_freed_later(tmp_path):
    async def scenario(desk):
        async def break_the_database():
            await refuse_writes(desk.books.database)
            raise Rejected("bad schema", status=400)

        provider.steps = [break_the_database]
        with pytest.raises(Unavailable):
            await desk.complete(key=KEY)
        await take_writes(desk.books.database)
        with pytest.raises(IdempotencyInFlight):
            await desk.complete(key=KEY)
        await desk.books.ledger.flush()
        provider.steps = [answer()]
        await desk.complete(key=KEY)
        assert await desk.books.budget() == (CAP, COST, 0)

    provider = Provider()
    run_on_desk(tmp_path, scenario, provider)
