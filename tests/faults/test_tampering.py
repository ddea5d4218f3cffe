"""A byte of the ledger changed by hand, a row taken out, put in or moved: ``verify`` finds each."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from harness import engines
from harness.books import open_books, settlement
from harness.postgres import shared_server
from tollhouse.cli.books import read_books
from tollhouse.config import Database
from tollhouse.ledger.verify import verify
from tollhouse.storage.schema import ai_usage_log

ROWS = 12
TARGET = 5
# Of these, a further byte is another number; all others are text.
NUMBERS = {name for name, column in ai_usage_log.c.items() if column.type.python_type is int} - {"id"}
TEXTS = set(ai_usage_log.c.keys()) - NUMBERS - {"id"}


class Ledger:
    """A ledger of some rows, and somebody who may change it in any way that its engine knows."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "books.db"
        asyncio.run(self._write())
        self.url = engines.database_url(self.file)

    async def _write(self) -> None:
        async with open_books(self.file) as books:
            await books.set_tenant(cap=1_000_000)
            for number in range(ROWS):
                made = await books.reserve(100, user_id=f"user-{number:04}")
                await books.ledger.settle(settlement(made, 50 + number))

    def change(self, *statements: str) -> None:
        """Change it as somebody who owns the database would, past its own protection."""
        if engines.current() == "sqlite":
            with closing(sqlite3.connect(self.file)) as connection:
                triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
                connection.executescript("".join(f"DROP TRIGGER {name};" for (name,) in triggers))
                for statement in statements:
                    connection.execute(statement)
                connection.commit()
            return
        server = shared_server()
        for statement in ("ALTER TABLE ai_usage_log DISABLE TRIGGER USER", *statements):
            server.execute(statement, self.url.rpartition("/")[2])

    def findings(self) -> list[str]:
        found = read_books(Database(url=self.url), verify).findings
        return [f"{each.table} {each.row}: {each.problem}" for each in found]


@pytest.fixture
def ledger(on_each_engine, tmp_path) -> Ledger:
    ledger = Ledger(tmp_path)
    assert ledger.findings() == []
    return ledger


def test_a_byte_changed_in_any_column_is_found_and_put_back_is_not(ledger):
    where = f"WHERE user_id = 'user-{TARGET:04}'"
    if engines.current() == "postgresql":
        ledger.change("SELECT ai_open_month('1026-04')")
    unnoticed = []
    for name in sorted(NUMBERS | TEXTS - {"user_id", "status", "billing_period"}):
        # The first character of a text becomes another; of an empty one, there is one more.
        changed = (
            f"{name} + 1" if name in NUMBERS else f"CASE WHEN {name} = '' THEN '~' ELSE '~' || substr({name}, 2) END"
        )
        before = "before_the_change"
        ledger.change(f"CREATE TABLE {before} AS SELECT {name} AS v FROM ai_usage_log {where}")
        ledger.change(f"UPDATE ai_usage_log SET {name} = {changed} {where}")
        if not ledger.findings():
            unnoticed.append(name)
        row_now = f"WHERE user_id = 'user-{TARGET:04}'"
        ledger.change(f"UPDATE ai_usage_log SET {name} = (SELECT v FROM {before}) {row_now}", f"DROP TABLE {before}")
        assert ledger.findings() == [], name
    for name, value in (("user_id", "user-000~"), ("status", "unknown"), ("billing_period", "1026-04")):
        (old,) = {"user_id": [f"user-{TARGET:04}"], "status": ["settled"], "billing_period": ["2026-04"]}[name]
        ledger.change(f"UPDATE ai_usage_log SET {name} = '{value}' {where}")
        if not ledger.findings():
            unnoticed.append(name)
        ledger.change(f"UPDATE ai_usage_log SET {name} = '{old}' WHERE cost_nano_usd = {50 + TARGET}")
        assert ledger.findings() == [], name
    columns = len(NUMBERS | TEXTS)
    print(f"\nFAULT {engines.current()} a byte changed by hand: columns={columns} unnoticed={len(unnoticed)}")
    assert unnoticed == []


ROW = f"user_id = 'user-{TARGET:04}'"
LAST = f"user_id = 'user-{ROWS - 1:04}'"
DEEDS = {
    "a row taken out": [f"DELETE FROM ai_usage_log WHERE {ROW}"],
    "the last row taken out": [f"DELETE FROM ai_usage_log WHERE {LAST}"],
    "all rows taken out": ["DELETE FROM ai_usage_log"],
    "two rows swapped": [
        f"UPDATE ai_usage_log SET id = -1 WHERE {ROW}",
        f"UPDATE ai_usage_log SET id = (SELECT max(id) FROM ai_usage_log) + 1 WHERE {LAST}",
    ],
    "a rollup changed": ["UPDATE ai_usage_monthly SET cost_nano_usd = cost_nano_usd - 1"],
    "a day's rollup changed": ["UPDATE ai_usage_daily SET calls = calls + 1"],
    "a budget changed": ["UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd - 1"],
    "a reservation made up": ["UPDATE ai_budgets SET reserved_nano_usd = reserved_nano_usd + 1"],
    "the head changed": ["UPDATE ai_ledger_heads SET entries = entries - 1"],
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_was_done_to_the_ledger_by_hand_is_found(ledger, deed):
    ledger.change(*DEEDS[deed])
    found = ledger.findings()
    print(f"\nFAULT {engines.current()} {deed} by hand: findings={len(found)}")
    assert found


@pytest.mark.engine("sqlite")
def test_a_byte_changed_in_the_file_itself_is_found(ledger):
    content = ledger.file.read_bytes()
    mark = f"user-{TARGET:04}".encode()
    places = [place for place in range(len(content)) if content.startswith(mark, place)]
    assert places
    unnoticed = 0
    for place in places:
        changed = bytearray(content)
        changed[place + 6] ^= 0x02
        ledger.file.write_bytes(changed)
        unnoticed += not ledger.findings()
    ledger.file.write_bytes(content)
    assert ledger.findings() == []
    print(f"\nFAULT sqlite a byte changed in the file: places={len(places)} unnoticed={unnoticed}")
    assert unnoticed == 0


@pytest.mark.engine("postgresql")
def test_the_service_itself_cannot_change_a_row(ledger):
    with psycopg.connect(ledger.url, autocommit=True) as connection:
        for statement in ("UPDATE ai_usage_log SET cost_nano_usd = 0", "DELETE FROM ai_usage_log"):
            # For want of the right to, or where it has it, by a trigger.
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.RaiseException)):
                connection.execute(statement)
    assert ledger.findings() == []
