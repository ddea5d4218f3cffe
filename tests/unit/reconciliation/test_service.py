"""Reconciliation on real books, which have to be consistent after each test."""

import asyncio

import msgspec
import pytest
import sqlalchemy as sa

from harness.books import run_on_books, settlement
from harness.clock import FakeClock
from tollhouse.errors import InternalError, InvalidRequest, Unavailable
from tollhouse.kit.clock import utc_text
from tollhouse.pricing.model import Price, Rates
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import UsageBucket
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.storage.schema import ai_audit_log

pytestmark = pytest.mark.usefixtures("on_each_engine")

PRICE = Price.of("test", Rates(*(1_000_000,) * 10), search_nano_usd=500)
NOON_MS = FakeClock().now_ms()
HOUR_MS = 3_600_000
SETTLED = Usage(input_tokens=5, output_tokens=2)


class Prices:
    """Gives the price of every model, and counts how often it was asked for them."""

    def __init__(self):
        self.asked = 0

    async def __call__(self):
        self.asked += 1
        return lambda _: PRICE


def desk(books, prices=None):
    names = {"fake": {"small": "small-2026", "brief": "small-2026", "large": "large-2026"}, "other": {}}
    return Reconciliation(books.database, books.clock, prices or Prices(), names)


def bucket(usage=Usage(), *, model="small-2026", start_ms=NOON_MS, end_ms=NOON_MS + HOUR_MS, requests=None):  # noqa: B008
    return UsageBucket(
        model=model, start_ms=start_ms, end_ms=end_ms, requests=requests, usage=usage, splits_reasoning=True
    )


async def settled(books, ceiling=100, **changes):
    await books.ledger.settle(settlement(await books.reserve(ceiling, **changes), 7, usage=SETTLED))


async def lost(books, ceiling=100, **changes):
    made = await books.reserve(ceiling, **changes)
    await books.ledger.hold(made, 1)
    return made


async def adjustments(books):
    return [row for row in await books.rows() if row.status == "adjustment"]


async def audited(books, action):
    statement = sa.select(ai_audit_log).where(ai_audit_log.c.action == action)
    return await books.database.read(lambda view: view.execute(statement).all())


async def reconciled(books, *buckets, provider="fake", prices=None, **how):
    return await desk(books, prices).reconcile(provider, buckets, actor="key_1", **how)


def test_an_unknown_call_is_entered_with_what_the_provider_counted_beyond_the_ledger(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.set_cap("user", "u", 5000)
        await settled(books)
        made = await lost(books, 100)
        await settled(books, model="brief")
        books.clock.advance(3600)
        found = await reconciled(books, bucket(Usage(40, output_tokens=9), requests=3))
        assert (found.resolved, found.cost_nano_usd, found.taken) == (1, 35, 0)
        (row,) = await adjustments(books)
        assert (row.request_id, row.cost_nano_usd, row.input_tokens, row.output_tokens) == (made.request_id, 35, 30, 5)
        assert (row.usage_source, row.finish_reason, row.price_version) == ("reported", "reconciled", PRICE.version)
        assert (row.admitted_at, row.created_at) == (made.created_at, "2026-04-10T13:00:00.000Z")
        assert await books.reservations() == {}
        assert await books.budget() == (10_000, 49, 0)
        assert await books.budget("user", "u") == (5000, 49, 0)
        (entry,) = await audited(books, "ledger.reconciled")
        assert (entry.actor, entry.target) == ("key_1", "fake")
        assert '"resolved":1,"cost_nano_usd":35,"taken":0,"differing":0' in entry.after

    run_on_books(tmp_path, scenario)


def test_sound_pictures_and_searches_are_compared_and_entered(tmp_path):
    def counted(usage, **changes):
        return msgspec.structs.replace(bucket(usage, requests=5), splits_media=True, counts_searches=True, **changes)

    async def scenario(books):
        await books.set_tenant()
        media = Usage(5, audio_input_tokens=7, web_searches=2)
        for usage in (media, media, Usage(image_output_tokens=9), SETTLED):
            await books.ledger.settle(settlement(await books.reserve(1000), 7, usage=usage))
        await lost(books, 1000)
        books.clock.advance(3600)
        whole = Usage(15, output_tokens=2, audio_input_tokens=15, image_output_tokens=9, web_searches=5)
        found = await reconciled(books, counted(whole), dry_run=True)
        assert found.matches[0].ledger.usage == Usage(
            15, output_tokens=2, audio_input_tokens=14, image_output_tokens=9, web_searches=4
        )
        folded = await reconciled(books, bucket(Usage(29, output_tokens=11), requests=4), dry_run=True)
        assert (folded.matches[0].outcome, folded.matches[0].unclaimed) == ("resolved", Usage())
        found = await reconciled(books, counted(whole))
        assert (found.resolved, found.cost_nano_usd) == (1, 1 + 500)
        (row,) = await adjustments(books)
        assert (row.other_usage, row.total_tokens) == ('{"audio_input_tokens":1,"web_searches":1}', 1)
        again = await reconciled(books, counted(whole))
        assert again.matches[0].outcome == "agrees"

    run_on_books(tmp_path, scenario)


def test_unknown_calls_that_the_provider_did_not_count_cost_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books)
        for _ in range(3):
            await lost(books)
        books.clock.advance(3600)
        found = await reconciled(books, bucket(SETTLED, requests=1))
        assert (found.resolved, found.cost_nano_usd) == (3, 0)
        assert {(row.cost_nano_usd, row.total_tokens, row.finish_reason) for row in await adjustments(books)} == {
            (0, 0, "unbilled")
        }
        assert await books.budget() == (10_000, 7, 0)

    run_on_books(tmp_path, scenario)


def test_a_run_repeated_finds_nothing_more_to_do(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await lost(books)
        await lost(books)
        books.clock.advance(3600)
        export = bucket(Usage(30, output_tokens=5), requests=1)
        assert (await reconciled(books, export)).resolved == 2
        (match,) = (await reconciled(books, export)).matches
        assert (match.outcome, match.unclaimed, match.unclaimed_requests) == ("agrees", Usage(), 0)

    run_on_books(tmp_path, scenario)


def test_a_dry_run_tells_the_same_and_changes_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await lost(books)
        books.clock.advance(3600)
        rows = await books.rows()
        export = bucket(Usage(30))
        told = await reconciled(books, export, dry_run=True)
        assert (await books.rows(), await books.budget(), await audited(books, "ledger.reconciled")) == (
            rows,
            (10_000, 0, 100),
            [],
        )
        assert await reconciled(books, export) == told

    run_on_books(tmp_path, scenario)


def test_what_differs_is_left_as_it_is(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books)
        await lost(books)
        books.clock.advance(3600)
        (match,) = (await reconciled(books, bucket(Usage(1000)))).matches
        assert match.outcome == "differs"
        assert await books.budget() == (10_000, 7, 100)
        assert await adjustments(books) == []

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("width_ms", [HOUR_MS, 60_000, 1000, 250])
def test_calls_belong_to_the_span_they_were_admitted_in(tmp_path, width_ms):
    """At the first and at the last millisecond of each of three spans, however short they are."""

    async def scenario(books):
        await books.set_tenant()
        for number in range(3):
            for offset_ms in (0, width_ms - 1):
                books.clock.set(utc_text(NOON_MS + number * width_ms + offset_ms))
                await settled(books)
        books.clock.advance(1)
        spans = [(NOON_MS + number * width_ms, NOON_MS + (number + 1) * width_ms) for number in range(3)]
        twice = Usage(input_tokens=10, output_tokens=4)
        found = await reconciled(
            books, *(bucket(twice, start_ms=start_ms, end_ms=end_ms, requests=2) for start_ms, end_ms in spans)
        )
        assert [match.outcome for match in found.matches] == ["agrees"] * 3

    run_on_books(tmp_path, scenario)


def test_other_providers_and_models_are_left_alone(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books)
        await settled(books, provider="other")
        elsewhere = [await lost(books, provider="other"), await lost(books, model="large")]
        books.clock.advance(3600)
        found = await reconciled(books, bucket(SETTLED, requests=1))
        assert [match.outcome for match in found.matches] == ["agrees"]
        assert await books.reservations() == {(each.request_id, 1): "unknown" for each in elsewhere}

    run_on_books(tmp_path, scenario)


def test_a_model_that_is_configured_no_longer_is_known_by_its_own_name(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books, model="retired")
        await lost(books, model="gone")
        books.clock.advance(3600)
        found = await reconciled(
            books, bucket(SETTLED, model="retired-2026-01-31"), bucket(Usage(), model="gone-20260131")
        )
        assert [match.outcome for match in found.matches] == ["resolved", "agrees"]

    run_on_books(tmp_path, scenario)


def test_a_span_that_is_not_over_is_skipped(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await lost(books)
        books.clock.advance(3599)
        (match,) = (await reconciled(books, bucket())).matches
        assert (match.outcome, match.reason) == ("skipped", "it is not over yet")
        books.clock.advance(1)
        late = await books.reserve(100)
        books.clock.advance(1)
        (match,) = (await reconciled(books, bucket())).matches
        assert match.outcome == "resolved", "a call that was admitted later does not matter"
        await books.ledger.release(late)

    run_on_books(tmp_path, scenario)


def test_a_span_with_calls_under_way_is_skipped(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await lost(books)
        running = await books.reserve(100)
        books.clock.advance(3600)
        (match,) = (await reconciled(books, bucket())).matches
        assert (match.outcome, match.reason) == ("skipped", "calls of that time are still under way")
        await books.ledger.release(running)
        assert (await reconciled(books, bucket())).resolved == 1

    run_on_books(tmp_path, scenario)


def test_prices_are_asked_for_only_where_something_is_unknown(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books)
        books.clock.advance(3600)
        prices = Prices()
        await reconciled(books, bucket(SETTLED), prices=prices)
        assert prices.asked == 0

    run_on_books(tmp_path, scenario)


def test_what_cannot_be_reconciled_is_refused(tmp_path):
    async def scenario(books):
        with pytest.raises(InvalidRequest, match="no provider 'nobody' is configured; configured are: fake, other"):
            await reconciled(books, bucket(), provider="nobody")
        with pytest.raises(InvalidRequest, match="expected at least one"):
            await reconciled(books)
        with pytest.raises(InvalidRequest, match="two spans of model small-2026 overlap"):
            await reconciled(books, bucket(), bucket(start_ms=NOON_MS + 1))

    run_on_books(tmp_path, scenario)


def test_what_somebody_else_resolved_meanwhile_is_entered_once(tmp_path):
    class Thief(Prices):
        def __init__(self, books, made):
            super().__init__()
            self.books, self.made = books, made

        async def __call__(self):
            await self.books.ledger.settle(settlement(self.made, 3, status="adjustment"))
            return await super().__call__()

    async def scenario(books):
        await books.set_tenant()
        made, other = await lost(books), await lost(books)
        books.clock.advance(3600)
        found = await reconciled(books, bucket(Usage(20)), prices=Thief(books, made))
        assert (found.resolved, found.cost_nano_usd, found.taken) == (1, 10, 1)
        assert {row.request_id: row.cost_nano_usd for row in await adjustments(books)} == {
            made.request_id: 3,
            other.request_id: 10,
        }

    run_on_books(tmp_path, scenario)


class Failing:
    """A database that fails to take what is submitted to it for one request."""

    def __init__(self, database, request_id, failure):
        self._database, self._request_id, self._failure = database, request_id, failure

    def submit(self, operation):
        if operation.reservation.request_id != self._request_id:
            return self._database.submit(operation)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(self._failure)
        return future

    def __getattr__(self, name):
        return getattr(self._database, name)


def test_what_the_ledger_refuses_stays_held_and_keeps_nothing_else_from_being_entered(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        refused, _ = await lost(books), await lost(books)
        books.clock.advance(2 * 3600)
        database = Failing(books.database, refused.request_id, InternalError("inconsistent"))
        assert await Reconciliation(database, books.clock, Prices(), {}).expire(1) == 1
        assert await books.reservations() == {(refused.request_id, 1): "unknown"}

    run_on_books(tmp_path, scenario)


def test_an_outage_is_told_and_the_next_run_goes_on(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        failed, _ = await lost(books), await lost(books)
        books.clock.advance(2 * 3600)
        database = Failing(books.database, failed.request_id, Unavailable("the disk is full"))
        with pytest.raises(Unavailable):
            await Reconciliation(database, books.clock, Prices(), {}).expire(1)
        assert await desk(books).expire(1) == 1
        assert await books.reservations() == {}

    run_on_books(tmp_path, scenario)


def test_two_runs_at_once_resolve_each_call_once(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for _ in range(5):
            await lost(books)
        books.clock.advance(3600)
        two = desk(books), desk(books)
        found = await asyncio.gather(*(each.reconcile("fake", [bucket()], actor="k") for each in two))
        assert sum(each.resolved for each in found) == 5
        assert len(await adjustments(books)) == 5

    run_on_books(tmp_path, scenario)


# What nobody claims.


def test_what_was_held_for_long_enough_is_freed_at_no_cost(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await settled(books)
        early = await lost(books)
        books.clock.advance(1)
        late = await lost(books)
        books.clock.advance(72 * 3600 - 0.5)
        assert await desk(books).expire(72) == 1
        (row,) = await adjustments(books)
        assert (row.request_id, row.cost_nano_usd, row.usage_source, row.finish_reason) == (
            early.request_id,
            0,
            "none",
            "expired",
        )
        assert await books.reservations() == {(late.request_id, 1): "unknown"}
        assert await books.budget() == (10_000, 7, 100)
        (entry,) = await audited(books, "ledger.expired")
        assert (entry.actor, entry.after) == ("system", '{"resolved":1,"unknown_hold_hours":72}')

    run_on_books(tmp_path, scenario)


def test_nothing_is_told_when_nothing_is_freed_and_calls_under_way_stay(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        running = await books.reserve(100)
        books.clock.advance(1000 * 3600)
        assert await desk(books).expire(1) == 0
        assert await books.reservations() == {(running.request_id, 1): "open"}
        assert await audited(books, "ledger.expired") == []

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("at_once", [1, 3])
def test_however_many_are_freed(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("tollhouse.reconciliation.service._AT_ONCE", at_once)

    async def scenario(books):
        await books.set_tenant()
        running = await books.reserve(100)
        for _ in range(7):
            await lost(books)
        books.clock.advance(2 * 3600)
        assert await desk(books).expire(1) == 7
        assert await books.reservations() == {(running.request_id, 1): "open"}
        assert await books.budget() == (10_000, 0, 100)

    run_on_books(tmp_path, scenario)


def test_what_an_export_claims_after_it_was_freed_differs(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await lost(books)
        books.clock.advance(2 * 3600)
        await desk(books).expire(1)
        (match,) = (await reconciled(books, bucket(Usage(30), requests=1))).matches
        assert (match.outcome, match.unclaimed, match.unclaimed_requests) == ("differs", Usage(30), 1)

    run_on_books(tmp_path, scenario)
