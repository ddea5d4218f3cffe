"""The triggers that keep the ledger and the audit log from being rewritten, by whatever program opens the file."""

import asyncio
import sqlite3

import pytest

from harness import engines
from harness.books import open_books, reservation, settlement
from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry

APPEND_ONLY = ["ai_usage_log", "ai_audit_log"]


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

    # Whatever engine the tests before it ran on: this one is about SQLite's triggers.
    with engines.using("sqlite"):
        asyncio.run(main())
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    yield connection
    connection.close()


def row_of(written, table, **changes):
    """Return the one row of a table, with changes where it has such columns."""
    cursor = written.execute(f"SELECT * FROM {table}")
    (values,) = cursor.fetchall()
    row = dict(zip((column for column, *_ in cursor.description), values, strict=True))
    return row | {column: value for column, value in changes.items() if column in row}


def insert(written, verb, row, table, end=""):
    columns, places = ", ".join(f'"{column}"' for column in row), ", ".join("?" * len(row))
    written.execute(f"{verb} INTO {table} ({columns}) VALUES ({places}) {end}", list(row.values()))


def test_these_are_all_tables_that_take_further_rows_only(written):
    triggered = written.execute("SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'")
    assert {table for (table,) in triggered} == set(APPEND_ONLY)


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {} SET tenant_id = '43'",
        "UPDATE OR IGNORE {} SET tenant_id = '43'",
        "UPDATE OR REPLACE {} SET tenant_id = '43'",
        "UPDATE {} SET id = 2",
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


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    ("verb", "end"),
    [
        ("INSERT OR REPLACE", ""),
        ("REPLACE", ""),
        ("INSERT OR IGNORE", ""),
        ("INSERT", "ON CONFLICT (id) DO UPDATE SET tenant_id = '43'"),
    ],
    ids=["insert or replace", "replace", "insert or ignore", "upsert"],
)
@pytest.mark.parametrize("id_column", ["id", "rowid"])
def test_no_row_takes_the_place_of_another(written, table, verb, end, id_column):
    before = written.execute(f"SELECT * FROM {table}").fetchall()
    # Another attempt's row, so that nothing but the id is in the way.
    row = row_of(written, table, tenant_id="43", request_id="req_other")
    row[id_column] = row.pop("id")
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only: write a further row"):
        insert(written, verb, row, table, end)
    assert written.execute(f"SELECT * FROM {table}").fetchall() == before


@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
@pytest.mark.parametrize("new_id", [2, None], ids=["another id", "no id"])
def test_no_row_of_the_ledger_takes_the_place_of_another_of_its_attempt(written, verb, new_id):
    before = written.execute("SELECT * FROM ai_usage_log").fetchall()
    row = row_of(written, "ai_usage_log", id=new_id, tenant_id="43", cost_nano_usd=0)
    with pytest.raises(sqlite3.IntegrityError, match="ai_usage_log has a row of this attempt already"):
        insert(written, verb, row, "ai_usage_log")
    assert written.execute("SELECT * FROM ai_usage_log").fetchall() == before


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_a_further_row_may_be_written(written, table):
    row = row_of(written, table, id=None, request_id="req_other")
    insert(written, "INSERT", row, table)
    assert written.execute(f"SELECT id FROM {table}").fetchall() == [(1,), (2,)]
