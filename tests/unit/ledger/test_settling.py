"""The transaction that ends an attempt: row, chain, reservation, budgets and rollups."""

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa

from harness.books import hash_by_hand, reservation, run_on_books, settlement
from tollhouse.errors import InternalError
from tollhouse.ledger.model import GENESIS_HASH, other_counts
from tollhouse.providers.usage import Usage
from tollhouse.storage.schema import ROLLUP_COUNTS, ai_ledger_heads, ai_usage_daily, ai_usage_monthly

USAGE = Usage(
    input_tokens=1,
    cached_input_tokens=20,
    cache_write_tokens=300,
    cache_write_1h_tokens=4000,
    output_tokens=50_000,
    reasoning_tokens=600_000,
)
MEDIA = Usage(
    input_tokens=1,
    output_tokens=50,
    audio_input_tokens=12,
    image_input_tokens=258,
    audio_output_tokens=30,
    image_output_tokens=1290,
    web_searches=3,
)


async def table(books, of):
    """Return the rows of a table, as mappings."""
    rows = await books.database.read(lambda connection: connection.execute(sa.select(of)).mappings().all())
    return [dict(row) for row in rows]


def counts(row):
    return {name: row[name] for name in ROLLUP_COUNTS if row[name]}


def test_a_settled_attempt_is_a_row_with_all_that_is_known_of_it(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(900, user_id="u", attempt=2)
        await books.ledger.settle(
            settlement(made, 700, usage=USAGE, finish_reason="length", created_at="2026-04-10T12:00:01.000Z")
        )
        (row,) = await books.rows()
        found = row._asdict()
        for name in ("id", "prev_hash", "row_hash"):
            del found[name]
        assert found == {
            "request_id": made.request_id,
            "attempt": 2,
            "tenant_id": "42",
            "user_id": "u",
            "feature_slug": "f",
            "service": "shop",
            "key_id": "k",
            "model": "small",
            "provider": "fake",
            "input_tokens": 1,
            "cached_input_tokens": 20,
            "cache_write_tokens": 300,
            "cache_write_1h_tokens": 4000,
            "output_tokens": 50_000,
            "reasoning_tokens": 600_000,
            "total_tokens": 654_321,
            "cost_nano_usd": 700,
            "price_version": "test 1",
            "status": "settled",
            "usage_source": "reported",
            "finish_reason": "length",
            "latency_ms": 3,
            "billing_period": "2026-04",
            "admitted_at": "2026-04-10T12:00:00.000Z",
            "created_at": "2026-04-10T12:00:01.000Z",
            "other_usage": "",
        }

    run_on_books(tmp_path, scenario)


def test_the_reservation_goes_and_the_cost_is_posted(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.set_cap("user", "u", 5000)
        made = await books.reserve(900)
        await books.ledger.settle(settlement(made, 700))
        assert await books.reservations() == {}
        assert await books.budget() == (10_000, 700, 0)
        assert await books.budget("user", "u") == (5000, 700, 0)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("cost", [0, 900, 901, 50_000])
def test_a_cost_is_posted_in_full_below_at_and_above_its_ceiling(tmp_path, cost):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        await books.ledger.settle(settlement(await books.reserve(900), cost))
        assert await books.budget() == (1000, cost, 0)

    run_on_books(tmp_path, scenario)


def test_a_released_attempt_leaves_no_trace(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.ledger.release(await books.reserve(900))
        assert await books.reservations() == {}
        assert await books.rows() == []
        assert await books.budget() == (10_000, 0, 0)

    run_on_books(tmp_path, scenario)


def test_an_unknown_outcome_is_a_row_at_its_ceiling_that_stays_reserved_and_costs_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(900)
        books.clock.advance(61)
        await books.ledger.hold(made, 60_000)
        assert await books.reservations() == {(made.request_id, 1): "unknown"}
        assert await books.budget() == (10_000, 0, 900)
        (row,) = await books.rows()
        assert (row.status, row.cost_nano_usd, row.total_tokens, row.usage_source, row.latency_ms) == (
            "unknown",
            900,
            0,
            "none",
            60_000,
        )
        assert row.created_at == "2026-04-10T12:01:01.000Z"
        (monthly,) = await table(books, ai_usage_monthly)
        assert counts(monthly) == {"unknown_calls": 1, "unknown_nano_usd": 900}

    run_on_books(tmp_path, scenario)


def test_an_adjustment_resolves_an_unknown_outcome(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(900)
        await books.ledger.hold(made, 1)
        await books.ledger.settle(settlement(made, 250, status="adjustment"))
        assert await books.reservations() == {}
        assert await books.budget() == (10_000, 250, 0)
        assert [row.status for row in await books.rows()] == ["unknown", "adjustment"]

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("again", ["settle", "release", "hold"])
@pytest.mark.parametrize("first", ["settle", "release", "hold", "resolve"])
def test_an_attempt_does_not_end_twice(tmp_path, first, again):
    async def end(books, made, how):
        if how == "settle":
            await books.ledger.settle(settlement(made, 50))
        elif how == "release":
            await books.ledger.release(made)
        else:
            await books.ledger.hold(made, 1)
        if how == "resolve":
            await books.ledger.settle(settlement(made, 50, status="adjustment"))

    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(100)
        await end(books, made, first)
        before = await books.budgets(), await books.rows(), await books.reservations()
        with pytest.raises(InternalError):
            await end(books, made, again)
        assert (await books.budgets(), await books.rows(), await books.reservations()) == before

    run_on_books(tmp_path, scenario)


def test_of_a_batch_that_ends_an_attempt_twice_the_first_counts_and_the_others_are_not_harmed(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made, other = await books.reserve(100), await books.reserve(100)
        outcomes = await asyncio.gather(
            books.ledger.settle(settlement(made, 10)),
            books.ledger.settle(settlement(made, 20)),
            books.ledger.settle(settlement(other, 40)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), InternalError, type(None)]
        assert await books.budget() == (10_000, 50, 0)

    run_on_books(tmp_path, scenario)


def test_an_attempt_whose_outcome_is_known_is_not_resolved(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve(100)
        with pytest.raises(InternalError):
            await books.ledger.settle(settlement(made, 50, status="adjustment"))
        assert await books.reservations() == {(made.request_id, 1): "open"}

    run_on_books(tmp_path, scenario)


def test_rows_of_a_tenant_are_chained_whether_they_share_a_batch_or_not(tmp_path):
    async def scenario(books):
        for tenant_id in ("42", "43"):
            await books.set_tenant(tenant_id)
        made = [await books.reserve(100, tenant_id=tenant_id) for tenant_id in ("42", "43", "42", "42")]
        await asyncio.gather(*(books.ledger.settle(settlement(each, 10)) for each in made[:3]))
        await books.ledger.hold(made[3], 1)
        chains: dict[str, list[Any]] = {}
        for row in await books.rows():
            chains.setdefault(row.tenant_id, []).append(row)
        heads = {row["tenant_id"]: (row["entries"], row["last_hash"]) for row in await table(books, ai_ledger_heads)}
        assert {tenant_id: len(chain) for tenant_id, chain in chains.items()} == {"42": 3, "43": 1}
        for tenant_id, chain in chains.items():
            hashes = [GENESIS_HASH, *(row.row_hash for row in chain)]
            assert [row.prev_hash for row in chain] == hashes[:-1]
            assert heads[tenant_id] == (len(chain), hashes[-1])

    run_on_books(tmp_path, scenario)


def test_a_rows_hash_can_be_computed_from_its_columns_with_any_tool(tmp_path):
    async def scenario(books):
        await books.set_tenant("Zürich")
        made = await books.reserve(100, tenant_id="Zürich", user_id='"quoted" \\')
        await books.ledger.settle(settlement(made, 10))
        (row,) = await books.rows()
        assert hash_by_hand(row) == row.row_hash

    run_on_books(tmp_path, scenario)


def test_a_row_without_other_usage_has_the_hash_it_had_before_there_was_any():
    made = reservation(100, request_id="req_1", tenant_id="Zürich", user_id='"')
    entry = settlement(made, 7).entry(GENESIS_HASH)
    assert entry.other_usage == ""
    assert entry.row_hash() == "3403379216f25a397954ed67fc1981e4878b3cb286757d68c1c86633b90143b8"


@pytest.mark.parametrize("text", ["", '"', '""', '"",', ',"",', "\\", '\\"",', "\x00"])
def test_whatever_its_texts_are_a_rows_values_are_hashed_but_for_no_other_usage(text):
    made = reservation(100, tenant_id=text, user_id=text, key_id=text, price_version=text)
    for usage in (USAGE, MEDIA):
        entry = settlement(made, 7, usage=usage, finish_reason=text, created_at=text).entry(text)
        values = [getattr(entry, name) for name in entry.__struct_fields__]
        if usage == USAGE:
            del values[-2]
        assert json.loads(entry.hashed()) == values
        assert len(values) == (26 if usage == USAGE else 27)


def test_sound_pictures_and_searches_are_a_rows_other_usage(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for usage in (MEDIA, Usage(input_tokens=3, web_searches=2), Usage(image_output_tokens=9), USAGE):
            await books.ledger.settle(settlement(await books.reserve(100), 10, usage=usage))
        rows = await books.rows()
        assert [row.other_usage for row in rows] == [
            (
                '{"audio_input_tokens":12,"image_input_tokens":258,"audio_output_tokens":30,'
                '"image_output_tokens":1290,"web_searches":3}'
            ),
            '{"web_searches":2}',
            '{"image_output_tokens":9}',
            "",
        ]
        assert [other_counts(row.other_usage) for row in rows[1:]] == [
            {"web_searches": 2},
            {"image_output_tokens": 9},
            {},
        ]
        assert [row.total_tokens for row in rows] == [1 + 12 + 258 + 50 + 30 + 1290, 3, 9, 654_321]
        assert [row.row_hash for row in rows] == list(map(hash_by_hand, rows))
        assert [row.prev_hash for row in rows] == [GENESIS_HASH, *(row.row_hash for row in rows[:-1])]
        (daily,) = await table(books, ai_usage_daily)
        assert daily["total_tokens"] == 1641 + 3 + 9 + 654_321
        assert (daily["input_tokens"], daily["output_tokens"]) == (1 + 3 + 1, 50 + 50_000)
        (monthly,) = await table(books, ai_usage_monthly)
        assert counts(monthly) == counts(daily)

    run_on_books(tmp_path, scenario)


def test_rows_with_and_without_other_usage_may_share_a_batch(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        made = [await books.reserve(100) for _ in range(4)]
        usages = [MEDIA, USAGE, Usage(web_searches=1), USAGE]
        await asyncio.gather(
            *(books.ledger.settle(settlement(each, 1, usage=usage)) for each, usage in zip(made, usages, strict=True))
        )
        rows = await books.rows()
        assert sorted(row.other_usage == "" for row in rows) == [False, False, True, True]
        assert [row.row_hash for row in rows] == list(map(hash_by_hand, rows))

    run_on_books(tmp_path, scenario)


def test_an_unknown_call_that_is_found_to_have_searched_alone_is_a_call(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for usage, cost in ((Usage(web_searches=1), 0), (Usage(), 0)):
            made = await books.reserve(100)
            await books.ledger.hold(made, 1)
            await books.ledger.settle(settlement(made, cost, usage=usage, status="adjustment"))
        (daily,) = await table(books, ai_usage_daily)
        assert counts(daily) == {"calls": 1}

    run_on_books(tmp_path, scenario)


def test_rollups_are_kept_by_all_that_usage_is_asked_for(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for changes in ({}, {}, {"user_id": "v"}, {"model": "large"}, {"key_id": "l"}, {"service": "till"}):
            await books.ledger.settle(settlement(await books.reserve(100, **changes), 10, usage=USAGE))
        lost = await books.reserve(100)
        await books.ledger.hold(lost, 1)
        monthly = await table(books, ai_usage_monthly)
        assert sorted(row["calls"] for row in monthly) == [1, 1, 1, 1, 2]
        (twice,) = (row for row in monthly if row["calls"] == 2)
        assert counts(twice) == {
            "calls": 2,
            "input_tokens": 2,
            "cached_input_tokens": 40,
            "cache_write_tokens": 8600,
            "output_tokens": 100_000,
            "reasoning_tokens": 1_200_000,
            "total_tokens": 1_308_642,
            "cost_nano_usd": 20,
            "unknown_calls": 1,
            "unknown_nano_usd": 100,
        }
        (daily,) = await table(books, ai_usage_daily)
        assert (daily["day"], daily["calls"], daily["cost_nano_usd"]) == ("2026-04-10", 6, 60)

    run_on_books(tmp_path, scenario)


def test_usage_falls_into_the_day_and_month_of_admission(tmp_path):
    async def scenario(books):
        books.clock.set("2026-04-30T23:59:59.999Z")
        await books.set_tenant()
        made = await books.reserve(100)
        await books.ledger.settle(settlement(made, 10, created_at="2026-05-01T00:00:00.001Z"))
        (daily,) = await table(books, ai_usage_daily)
        assert (daily["day"], daily["billing_period"]) == ("2026-04-30", "2026-04")

    run_on_books(tmp_path, scenario)


def test_a_settlement_without_a_reservation_is_refused(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        with pytest.raises(InternalError):
            await books.ledger.settle(settlement(reservation(100), 10))
        assert await books.rows() == []

    run_on_books(tmp_path, scenario)
