import asyncio
import sqlite3

import pytest

from harness.books import open_books, reservation, settlement
from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry


@pytest.fixture
def written(tmp_path):
    """A database file with a row in the ledger and one in the audit log."""

    async def main():
        async with open_books(tmp_path / "db") as books:
            await books.set_tenant()
            await books.admit(made := reservation())
            await books.ledger.settle(settlement(made, 7))
            entry = AuditEntry("2026-04-10T12:00:00.000Z", "admin", "tenant.created", "42", "42")
            await books.database.write(lambda connection: audit.append(connection, entry))

    asyncio.run(main())
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    yield connection
    connection.close()


@pytest.mark.parametrize("table", ["ai_usage_log", "ai_audit_log"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {} SET tenant_id = '43'",
        "UPDATE OR IGNORE {} SET tenant_id = '43'",
        "DELETE FROM {}",
        "DELETE FROM {} WHERE id = 1",
    ],
)
def test_no_row_is_ever_changed_or_deleted(written, table, change):
    before = written.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only: write a further row"):
        written.execute(change.format(table))
    assert written.execute(f"SELECT * FROM {table}").fetchall() == before
