"""Months that are taken out of the ledger, on PostgreSQL: the rest stays provable."""

import asyncio

import pytest

from harness import engines
from harness.books import open_books, reservation, settlement
from harness.clock import FakeClock
from harness.postgres import shared_server
from tollhouse.providers.usage import Usage

pytestmark = pytest.mark.engine("postgresql")


async def call(books, tenant_id="42", *, at, cost=7, usage=Usage(audio_input_tokens=3)):  # noqa: B008 - frozen
    books.clock.set(at)
    made = reservation(10, at=at.replace("Z", ".000Z"), tenant_id=tenant_id)
    await books.admit(made)
    await books.ledger.settle(settlement(made, cost, usage=usage))
    return made


async def archive(books, path, month):
    def work(connection):
        return connection.exec_driver_sql(f"SELECT ai_archive_month('{month}')").scalar()

    return await books.database.write(work)


def run(tmp_path, scenario):
    async def main():
        async with open_books(tmp_path / "db", FakeClock("2026-03-31T23:00:00Z")) as books:
            for tenant_id in ("42", "43"):
                await books.set_tenant(tenant_id)
            await scenario(books, tmp_path / "db")

    asyncio.run(main())


def test_an_archived_month_leaves_the_chains_provable_wherever_its_rows_stood(tmp_path):
    async def scenario(books, path):
        for tenant_id in ("42", "43", "42"):
            await call(books, tenant_id, at="2026-02-20T00:00:00Z")
        # Admitted in March and ended after the first call of April: its row stands between April's.
        late = reservation(10, at="2026-03-31T23:59:59.999Z")
        await call(books, at="2026-03-31T23:00:00Z")
        await books.admit(late)
        await call(books, at="2026-04-01T00:00:01Z")
        await books.ledger.settle(settlement(late, 9))
        await call(books, at="2026-04-01T00:00:02Z")

        table = await archive(books, path, "2026-03")
        assert (await books.verify()).findings == []
        assert {row.billing_period for row in await books.rows()} == {"2026-02", "2026-04"}
        database = engines.database_url(path).rpartition("/")[2]
        assert shared_server().execute(f"SELECT count(*) FROM {table}", database)[0][0] == 2
        await archive(books, path, "2026-02")
        await call(books, "43", at="2026-04-02T00:00:00Z")
        report = await books.verify()
        assert (report.findings, report.entries) == ([], 3)

        # What was archived is not to be put in its place by others.
        shared_server().execute("UPDATE ai_ledger_archives SET last_hash = repeat('0', 64)", database)
        assert "prev_hash is not the hash" in (await books.verify()).findings[0].problem

    run(tmp_path, scenario)


def test_a_month_that_is_not_over_or_has_calls_of_unknown_outcome_is_not_archived(tmp_path):
    async def scenario(books, path):
        made = await call(books, at="2026-03-31T23:00:00Z")
        held = await books.reserve(10)
        await books.ledger.hold(held, 5)
        assert made.billing_period == held.billing_period == "2026-03"
        for month, reason in (
            ("2026-03", "whose outcome is not known"),
            ("2026-01", "has no rows here"),
            ("9999-01", "is not over"),
            ("2026-3", "expected a month as YYYY-MM"),
        ):
            with pytest.raises(Exception, match=reason):
                await archive(books, path, month)
        assert (await books.verify()).findings == []
        assert len(await books.rows()) == 2

    run(tmp_path, scenario)
