"""Verifying finds every way in which the books can have been changed behind the ledger's back."""

import asyncio

import pytest

from harness import engines
from harness.books import open_books, settlement
from tollhouse.ledger import verify as verifying
from tollhouse.providers.usage import Usage

UNLOCK = {
    "sqlite": "DROP TRIGGER ai_usage_log_no_update; DROP TRIGGER ai_usage_log_no_delete",
    "postgresql": "ALTER TABLE ai_usage_log DISABLE TRIGGER USER",
}


@pytest.fixture(scope="module")
def sound(engine, tmp_path_factory):
    """A database with settled, unknown, resolved and open attempts of two tenants."""
    path = tmp_path_factory.mktemp("sound") / "db"

    async def main():
        async with open_books(path) as books:
            for tenant_id in ("42", "43"):
                await books.set_tenant(tenant_id)
                await books.set_cap("user", "u", 5000, tenant_id=tenant_id)
                for cost, usage in ((10, Usage(5, output_tokens=2)), (20, Usage(5, audio_input_tokens=2))):
                    made = await books.reserve(100, tenant_id=tenant_id)
                    await books.ledger.settle(settlement(made, cost, usage=usage))
                await books.ledger.hold(await books.reserve(100, tenant_id=tenant_id), 1)
                resolved = await books.reserve(100, tenant_id=tenant_id)
                await books.ledger.hold(resolved, 1)
                await books.ledger.settle(settlement(resolved, 30, status="adjustment"))
                await books.reserve(100, tenant_id=tenant_id, request_id=f"req_open_{tenant_id}")

    asyncio.run(main())
    return path


def verify(path):
    async def main():
        async with open_books(path) as books:
            return await books.verify()

    return asyncio.run(main())


def changed(sound, folder, *statements):
    """Copy the books, change them with SQL, and verify the copy."""
    copy = folder / "db"
    engines.copy_database(sound, copy)
    if statements:
        engines.run_sql(copy, UNLOCK[engines.current()], *statements)
    return verify(copy)


def test_sound_books_are_consistent_and_counted(sound, tmp_path):
    report = changed(sound, tmp_path)
    assert report.is_consistent
    assert report.findings == []
    assert (report.entries, report.tenants, report.budgets, report.reservations) == (10, 2, 4, 4)


@pytest.mark.parametrize(
    ("script", "table", "problem"),
    [
        # The chain.
        ("UPDATE ai_usage_log SET cost_nano_usd = 9 WHERE id = 1", "ai_usage_log", "row_hash does not fit the row"),
        ("UPDATE ai_usage_log SET user_id = 'v' WHERE id = 1", "ai_usage_log", "row_hash does not fit the row"),
        ("UPDATE ai_usage_log SET created_at = 'x' WHERE id = 1", "ai_usage_log", "row_hash does not fit the row"),
        ("UPDATE ai_usage_log SET other_usage = '{}' WHERE id = 1", "ai_usage_log", "row_hash does not fit the row"),
        ("UPDATE ai_usage_log SET other_usage = '' WHERE id = 2", "ai_usage_log", "row_hash does not fit the row"),
        (
            "UPDATE ai_usage_log SET other_usage = '{\"audio_input_tokens\":3}' WHERE id = 2",
            "ai_usage_log",
            "row_hash does not fit the row",
        ),
        (
            "UPDATE ai_usage_daily SET total_tokens = total_tokens - 2",
            "ai_usage_daily",
            "total_tokens is 19, the ledger's rows give 21",
        ),
        ("UPDATE ai_usage_log SET row_hash = 'x' WHERE id = 1", "ai_usage_log", "prev_hash is not the hash of"),
        ("DELETE FROM ai_usage_log WHERE id = 2", "ai_usage_log", "prev_hash is not the hash of"),
        ("DELETE FROM ai_usage_log WHERE id = 5", "ai_ledger_heads", "the chain has 4 rows, 5 were written"),
        ("DELETE FROM ai_usage_log WHERE tenant_id = '43'", "ai_ledger_heads", "the chain has 0 rows, 5 were written"),
        ("UPDATE ai_ledger_heads SET last_hash = 'x'", "ai_ledger_heads", "last_hash is not the hash of"),
        ("DELETE FROM ai_ledger_heads", "ai_ledger_heads", "the chain has 5 rows, 0 were written"),
        # The rollups.
        ("UPDATE ai_usage_monthly SET cost_nano_usd = 1", "ai_usage_monthly", "cost_nano_usd is 1, the ledger's"),
        ("UPDATE ai_usage_daily SET calls = 1", "ai_usage_daily", "calls is 1, the ledger's rows give 3"),
        ("UPDATE ai_usage_daily SET unknown_nano_usd = 0", "ai_usage_daily", "unknown_nano_usd is 0"),
        ("DELETE FROM ai_usage_monthly", "ai_usage_monthly", "is missing, though the ledger has rows"),
        ("DELETE FROM ai_usage_daily", "ai_usage_daily", "is missing, though the ledger has rows"),
        ("UPDATE ai_usage_daily SET day = '2026-04-11'", "ai_usage_daily", "calls is 3, the ledger's rows give 0"),
        # The budgets.
        ("UPDATE ai_budgets SET posted_nano_usd = 0", "ai_budgets", "posted_nano_usd is 0, the ledger and"),
        ("UPDATE ai_budgets SET reserved_nano_usd = 0", "ai_budgets", "reserved_nano_usd is 0, the ledger and"),
        (
            "UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd - 1 WHERE scope = 'user'",
            "ai_budgets",
            "posted_nano_usd is 59",
        ),
        ("DELETE FROM ai_budgets", "ai_budgets", "is missing, though the tenant spent"),
        # The reservations.
        ("DELETE FROM ai_reservations WHERE state = 'unknown'", "ai_reservations", "which must stay held"),
        ("DELETE FROM ai_reservations WHERE state = 'open'", "ai_budgets", "reserved_nano_usd is 200"),
        ("UPDATE ai_reservations SET ceiling_nano_usd = 99", "ai_budgets", "reserved_nano_usd is 200"),
        ("UPDATE ai_reservations SET state = 'open'", "ai_reservations", "is open, though the ledger has a row"),
        ("UPDATE ai_reservations SET state = 'unknown'", "ai_reservations", "no unresolved unknown row for it"),
        ("UPDATE ai_reservations SET user_id = 'v'", "ai_budgets", "reserved_nano_usd is 200"),
    ],
)
def test_a_change_behind_the_ledgers_back_is_found(sound, tmp_path, script, table, problem):
    report = changed(sound, tmp_path, script)
    assert not report.is_consistent
    assert any(each.table == table and problem in each.problem for each in report.findings), report.findings


def test_findings_beyond_the_bound_are_counted_and_not_listed(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "MAX_FINDINGS", 3)
    report = changed(sound, tmp_path, "UPDATE ai_usage_log SET cost_nano_usd = cost_nano_usd + 1")
    assert len(report.findings) == 3
    assert report.finding_count > 10


def test_the_ledger_is_read_in_pieces(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "_ROWS_AT_ONCE", 3)
    assert changed(sound, tmp_path).is_consistent
