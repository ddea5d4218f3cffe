"""Who has the next turn: breakers, bulkheads, keys, tiers and deadlines on a call's way along its candidates."""

import asyncio
import functools

import pytest

from harness.books import run_on_books
from harness.clock import FakeClock
from harness.providers import Collected as Caller
from harness.providers import Desk, Held, PlainAdapter, Provider, Streaming, answer, event, lost
from tollhouse.audit import store as audit
from tollhouse.completions import failover
from tollhouse.errors import BudgetExceeded, CallTimeout, ProviderRejected, Unavailable
from tollhouse.providers.base import NotSent, Overloaded, Rejected, TimedOut, Unreachable, WireResponse
from tollhouse.resilience.api_keys import ApiKey, KeyRotation
from tollhouse.resilience.breaker import BreakerSettings, CircuitBreaker
from tollhouse.resilience.bulkhead import Bulkhead

CAP = 10_000_000
COST = 15_000
BUSY = Overloaded("busy", status=503)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", (0.0, 0.0))


def breaker(**changes):
    return CircuitBreaker(
        BreakerSettings(**{"consecutive_failures": 4, "open_s": 10.0, "slow_start_s": 1e-9} | changes)
    )


def open_one(clock, **changes):
    opened = breaker(**changes)
    while opened.state == "closed":
        opened.failed(opened.acquire(clock.monotonic_s()), clock.monotonic_s())
    return opened


def run(tmp_path, scenario, *providers, clock=None, limits=None, **how):
    """Run ``scenario(desk)``: its models are small, other and third, as far as there are providers."""

    async def on_books(books):
        await books.set_tenant(cap=CAP)
        names = ("small", "other", "third")
        await scenario(Desk(books, dict(zip(names, providers, strict=False)), **how))

    run_on_books(tmp_path, on_books, clock=clock, **(limits or {}))


async def told(desk, action="provider.switched"):
    await desk.journal.flush()
    entries = await desk.books.database.read(
        lambda connection: audit.page(connection, tenant_id=None, action=action, before_id=None, limit=99)
    )
    return [entry for _, entry in reversed(entries)]


async def rows(desk):
    return [(row.model, row.attempt, row.status) for row in await desk.books.rows()]


async def leaves_nothing_held(desk, posted=0):
    assert await desk.books.reservations() == {}
    assert await desk.books.budget() == (CAP, posted, 0)


# Breakers.


def test_a_candidate_whose_breaker_is_open_is_passed_over_without_a_request_or_a_reservation(tmp_path):
    clock = FakeClock()
    opened = open_one(clock)

    async def scenario(desk):
        served = await desk.complete()
        assert desk.called == ["other"]
        assert b'"fallback_used":true' in served.body
        assert b'"model":"other","provider":"other inc"' in served.body
        assert await rows(desk) == [("other", 1, "settled")]
        (entry,) = await told(desk)
        assert entry.before == {"provider": "small inc", "model": "small"}
        assert entry.target == served.request_id
        assert {**entry.after, "first_at": "", "last_at": ""} == {
            "provider": "other inc",
            "model": "other",
            "reason": "breaker_open",
            "count": 1,
            "first_at": "",
            "last_at": "",
            "targets": [served.request_id],
        }
        await leaves_nothing_held(desk, posted=COST)

    run(tmp_path, scenario, Provider(), Provider(), clock=clock, changes={"small": {"breaker": opened}})


def test_when_all_are_open_the_call_ends_at_once_with_the_time_of_the_next_probe(tmp_path):
    clock = FakeClock()
    changes = {"small": {"breaker": open_one(clock, open_s=30.0)}, "other": {"breaker": open_one(clock, open_s=10.0)}}

    async def scenario(desk):
        with pytest.raises(Unavailable, match="other at other inc is the next to") as caught:
            await desk.complete(key="order-7")
        assert 9 <= (caught.value.retry_after_s or 0) <= 11
        assert desk.called == []
        assert await rows(desk) == []
        await leaves_nothing_held(desk)
        # It has used nothing up: neither its idempotency key nor the rate limit.
        clock.advance(11)
        await desk.complete(key="order-7")
        assert desk.called == ["other"]

    limits = {"requests_per_minute": 1, "burst": 1}
    run(tmp_path, scenario, Provider(), Provider(), clock=clock, changes=changes, limits=limits)


@pytest.mark.parametrize("failure", [Unreachable("refused"), BUSY, lost(), TimedOut("slow")], ids=repr)
def test_a_provider_that_fails_opens_its_breaker_and_a_probe_closes_it_again(tmp_path, failure):
    clock = FakeClock()
    guard = breaker()

    async def scenario(desk):
        outcomes = await desk.complete_all([{}] * 4)
        while guard.state == "closed":
            outcomes += await desk.complete_all([{}])
        before = list(desk.called)
        await desk.complete()
        assert desk.called == [*before, "other"], "open: not even tried"
        clock.advance(guard.probe_in_s(clock.monotonic_s()))
        await desk.complete()
        assert "small" in desk.called[len(before) + 1 :], "the probe"
        assert guard.state == ("open" if desk.called[-1] == "other" else "closed")
        provider.steps = [answer()]
        clock.advance(60)
        await desk.complete()
        assert (guard.state, desk.called[-1]) == ("closed", "small")

    async def once(desk):
        # A probe that is lost fails its call too: the last scenario step is only for failures that may go on.
        await scenario(desk)

    provider = Provider(failure)
    may_go_on = isinstance(failure, Unreachable | Overloaded)
    if may_go_on:
        run(tmp_path, once, provider, Provider(), clock=clock, changes={"small": {"breaker": guard}})
        return

    async def lost_ones(desk):
        for number in range(4):
            with pytest.raises((Unavailable, CallTimeout)):
                await desk.complete()
            assert guard.state == ("open" if number == 3 else "closed")
        await desk.complete()
        assert desk.called == ["small"] * 4 + ["other"]

    run(tmp_path, lost_ones, provider, Provider(), clock=clock, changes={"small": {"breaker": guard}})


@pytest.mark.parametrize(
    "step", [Rejected("bad schema", status=400), NotSent("too many wait"), RuntimeError("a defect")], ids=repr
)
def test_what_is_not_the_providers_fault_does_not_count_against_it(tmp_path, step):
    guard = breaker()

    async def scenario(desk):
        for _ in range(10):
            await desk.complete_all([{}])
        assert guard.state == "closed"
        assert guard.snapshot(0.0).calls == 0

    run(tmp_path, scenario, Provider(step), changes={"small": {"breaker": guard}})


@pytest.mark.parametrize(("fair_s", "state"), [(60.0, "closed"), (0.5, "open")])
def test_a_deadline_counts_only_against_a_provider_that_was_given_its_time(tmp_path, fair_s, state):
    guard = breaker()

    async def times_out():
        await asyncio.sleep(0.55)
        raise TimedOut("the deadline passed")

    async def scenario(desk):
        outcomes = await desk.complete_all([{"timeout_s": 0.5}] * 4)
        assert {type(outcome) for outcome in outcomes} == {CallTimeout}
        assert guard.state == state

    run(tmp_path, scenario, Provider(times_out), changes={"small": {"breaker": guard, "fair_s": fair_s}})


def test_a_probe_that_was_refused_by_the_budget_or_cancelled_leaves_the_probe_to_the_next_call(tmp_path):
    clock = FakeClock()
    guard = open_one(clock)
    held = Held()

    async def scenario(desk):
        clock.advance(20)
        await desk.books.set_tenant(cap=1)
        with pytest.raises(BudgetExceeded):
            await desk.complete()
        assert guard.state == "half_open"
        await desk.books.set_tenant(cap=CAP)
        probing = asyncio.create_task(desk.complete())
        await held.reached.wait()
        assert not guard.would_permit(clock.monotonic_s())
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        provider.steps = [answer()]
        await desk.complete()
        assert guard.state == "closed"

    provider = Provider(held)
    run(tmp_path, scenario, provider, clock=clock, changes={"small": {"breaker": guard}})


def test_a_candidate_that_has_just_recovered_is_spared_while_another_answers_and_called_when_none_does(tmp_path):
    clock = FakeClock()
    guard = open_one(clock, slow_start_s=100.0)

    async def scenario(desk):
        clock.advance(20)
        await desk.complete()
        assert (guard.state, desk.called) == ("closed", ["small"])
        desk.called.clear()
        for _ in range(11):
            await desk.complete()
        assert sorted(desk.called) == ["other"] * 10 + ["small"]
        desk.called.clear()
        fallback.steps = [BUSY]
        for _ in range(5):
            await desk.complete()
        assert desk.called == ["other", "small"] * 5

    fallback = Provider()
    run(tmp_path, scenario, Provider(), fallback, clock=clock, changes={"small": {"breaker": guard}})


def test_streams_count_too_by_their_first_token_and_by_their_end(tmp_path):
    guard = breaker(consecutive_failures=2)

    async def scenario(desk):
        for _ in range(2):
            await desk.stream(Caller())
        assert guard.state == "open"
        caller = Caller()
        await desk.stream(caller)
        assert desk.called == ["small", "small", "other"]
        assert b"four" in caller.data

    broken = Streaming(event(text="fo"), lost())
    whole = Streaming(event(text="four"), event(finish="stop"), event(usage={"input_tokens": 1, "output_tokens": 1}))
    run(tmp_path, scenario, Provider(broken), Provider(whole), changes={"small": {"breaker": guard}})


def test_an_outage_of_many_calls_is_few_entries_of_the_audit_log(tmp_path):
    clock = FakeClock()

    async def scenario(desk):
        writing = asyncio.create_task(desk.journal.keep_writing())
        for _ in range(4):
            await desk.complete_all([{}] * 25)
        writing.cancel()
        entries = await told(desk)
        assert sum(entry.after["count"] for entry in entries) == 100
        assert len(entries) <= 2
        assert all(entry.target in entry.after["targets"] for entry in entries)

    changes = {"small": {"breaker": open_one(clock, open_s=60.0)}}
    run(tmp_path, scenario, Provider(), Provider(), clock=clock, changes=changes)


# Bulkheads.


def test_a_provider_whose_places_are_all_taken_is_passed_over_after_a_short_wait(tmp_path):
    bulkhead = Bulkhead(limit=1, tenant_limit=None, max_waiting=5, max_wait_s=0.01)
    held = Held()

    async def scenario(desk):
        first = asyncio.create_task(desk.complete())
        await held.reached.wait()
        await desk.complete()
        assert desk.called == ["small", "other"]
        (entry,) = await told(desk)
        assert entry.after["reason"] == "bulkhead_full"
        held.let_go.set()
        await first
        assert bulkhead.under_way == 0
        await leaves_nothing_held(desk, posted=2 * COST)

    run(tmp_path, scenario, Provider(held), Provider(), changes={"small": {"bulkhead": bulkhead}})


def test_a_call_that_finds_no_place_anywhere_is_told_to_come_again(tmp_path):
    bulkhead = Bulkhead(limit=1, tenant_limit=None, max_waiting=0, max_wait_s=1)

    async def scenario(desk):
        assert bulkhead.try_enter("other")
        with pytest.raises(Unavailable) as caught:
            await desk.complete()
        assert (caught.value.retry_after_s or 0) >= 1
        assert (desk.called, bulkhead.under_way) == ([], 1)

    run(tmp_path, scenario, Provider(), changes={"small": {"bulkhead": bulkhead}})


@pytest.mark.parametrize("step", [answer(), BUSY, lost(), Rejected("bad", status=400), WireResponse(200, {}, b"?")])
def test_every_outcome_gives_its_place_back(tmp_path, step):
    bulkhead = Bulkhead(limit=2, tenant_limit=2)

    async def scenario(desk):
        await desk.complete_all([{}])
        assert bulkhead.under_way == 0

    run(tmp_path, scenario, Provider(step), changes={"small": {"bulkhead": bulkhead}})


# Keys.


class Account(PlainAdapter):
    """An adapter that says which key it uses."""

    def __init__(self, name, used):
        self.name, self.used = name, used

    def encode(self, request):
        self.used.append(self.name)
        return super().encode(request)


@pytest.mark.parametrize("status", [401, 429])
def test_a_key_that_is_turned_away_rests_and_another_is_tried_at_once(tmp_path, status, monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", (50.0, 50.0))
    used: list[str] = []
    keys = KeyRotation([ApiKey(name, Account(name, used)) for name in "ab"], rest_s=60.0)
    guard, clock = breaker(), FakeClock()

    async def scenario(desk):
        served = await desk.complete()
        assert (used, desk.called) == (["a", "b"], ["small", "small"])
        assert b'"fallback_used":false' in served.body
        for _ in range(4):
            await desk.complete()
        assert used[2:] == ["b"] * 4
        assert guard.snapshot(clock.monotonic_s()).failure_rate == 0

    provider = Provider(Overloaded("no", status=status, retry_after_s=7.0 if status == 429 else None), answer())
    run(tmp_path, scenario, provider, clock=clock, changes={"small": {"keys": keys, "breaker": guard}})


# Tiers.


def test_a_tier_has_its_own_fallbacks_and_the_ceiling_of_them(tmp_path):
    async def scenario(desk):
        call = desk.plan()
        await desk.pipeline.complete(call)
        assert desk.called == ["small", "small", "third"]
        await desk.books.set_tenant(cap=CAP, tier="starter")
        desk.books.clock.advance(1)
        desk.called.clear()
        await desk.complete()
        assert desk.called == ["small", "small", "other"]

    chains = {"small": {"growth": ["third"], "enterprise": []}}
    run(tmp_path, scenario, Provider(BUSY), Provider(), Provider(), tier_fallbacks=chains)


def test_a_tier_without_fallbacks_has_none(tmp_path):
    async def scenario(desk):
        with pytest.raises(Unavailable):
            await desk.complete()
        assert desk.called == ["small", "small"]

    run(tmp_path, scenario, Provider(BUSY), Provider(), tier_fallbacks={"small": {"growth": []}})


# Deadlines and pauses.


def test_a_long_pause_is_kept_where_nobody_else_could_answer_and_it_fits_the_deadline(tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(asyncio, "sleep", functools.partial(_note, slept, asyncio.sleep))

    async def scenario(desk):
        await desk.complete({"timeout_s": 60})
        assert [delay_s for delay_s in slept if delay_s] == [30.0]
        provider.steps = [Overloaded("busy", status=429, retry_after_s=30.0), answer()]
        with pytest.raises(Unavailable) as caught:
            await desk.complete({"timeout_s": 20})
        assert caught.value.retry_after_s == 30.0

    provider = Provider(Overloaded("busy", status=429, retry_after_s=30.0), answer())
    run(tmp_path, scenario, provider)


async def _note(slept, sleep, delay_s):
    slept.append(delay_s)
    await sleep(0)


@pytest.mark.parametrize(("body_s", "header", "expected_s"), [(30, "5", 5), (5, "30", 5), (None, "7.5", 7.5)])
def test_of_two_deadlines_the_smaller_counts(tmp_path, body_s, header, expected_s):
    async def scenario(desk):
        call = desk.plan({"timeout_s": body_s}, timeout=header)
        left_s = call.deadline_s - asyncio.get_running_loop().time()
        assert expected_s - 1 < left_s <= expected_s

    run(tmp_path, scenario, Provider())


@pytest.mark.usefixtures("on_each_engine")
def test_the_wait_for_the_database_ends_at_the_deadline_and_a_late_admission_is_given_back(tmp_path):
    async def scenario(desk):
        let_go = asyncio.Event()
        gate = desk.pipeline._gate
        submit = desk.books.database.submit

        class SlowGate:
            """Admits as always; the database answers late."""

            def admit(self, admission):
                late = asyncio.get_running_loop().create_future()
                inner = gate.admit(admission)

                async def deliver():
                    outcome = await inner
                    await let_go.wait()
                    if late.done():
                        desk.books.ledger.give_back(admission.reservation, admission.claim)
                    else:
                        late.set_result(outcome)

                delivering.append(asyncio.create_task(deliver()))
                return late

        delivering: list[asyncio.Task[None]] = []
        desk.pipeline._gate = SlowGate()
        assert submit is not None
        with pytest.raises(CallTimeout, match="waited for the database"):
            await desk.complete({"timeout_s": 0.1}, key="order-7")
        assert desk.called == []
        let_go.set()
        await asyncio.gather(*delivering)
        await desk.books.ledger.flush()
        await leaves_nothing_held(desk)
        desk.pipeline._gate = gate
        await desk.complete(key="order-7")

    run(tmp_path, scenario, Provider())


@pytest.mark.usefixtures("on_each_engine")
def test_a_rejected_call_frees_what_it_took_whoever_rejected_it(tmp_path):
    clock = FakeClock()
    changes = {"small": {"breaker": open_one(clock)}}

    async def scenario(desk):
        with pytest.raises(ProviderRejected):
            await desk.complete(key="order-7")
        await leaves_nothing_held(desk)
        provider.steps = [answer()]
        await desk.complete(key="order-7")
        assert desk.called == ["other", "other"]

    provider = Provider(Rejected("bad", status=400))
    run(tmp_path, scenario, Provider(), provider, clock=clock, changes=changes)
