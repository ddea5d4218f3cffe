"""The audit log's chain: computed again by hand, kept by many writers at once, and broken by whatever is changed."""

import asyncio
import hashlib
import json

import pytest
import sqlalchemy as sa

from harness.books import run_on_books, run_on_two
from tollhouse.audit import store
from tollhouse.audit.chain import GENESIS_HASH, Head
from tollhouse.audit.export import export
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.service import AuditLog
from tollhouse.audit.verify import verify

NOW = "2026-04-10T12:00:00.000Z"
STATES = [None, {"name": 'Zürich "\\ \u2028 𝄞\x01', "cap_nano_usd": 2**53 + 1}, {"a": [None, True, -15]}, {}]


def entries(count, first=0):
    return [
        AuditEntry(NOW, "key_1", "tenant.updated", "42", f"target {n}", STATES[n % 4], STATES[n % 3])
        for n in range(first, first + count)
    ]


def write(books, made):
    return books.database.write(lambda connection: store.append_all(connection, made))


async def findings(books, anchor=None):
    found = []

    def work(connection):
        return verify(connection, lambda table, row, problem: found.append(f"{table.name} {row}: {problem}"), anchor)

    head = await books.database.read(work)
    return head, found


async def exported(books, **filters):
    wanted = {"tenant_id": None, "action": None, "after_id": 0} | filters
    return b"".join([piece async for piece in export(books.database, **wanted)])


def follow_by_hand(jsonl):
    """Follow the chain in an export with nothing but JSON and SHA-256, as docs/tables.md says."""
    last = GENESIS_HASH
    for line in jsonl.splitlines():
        row = json.loads(line)
        states = [
            None if row[name] is None else json.dumps(row[name], ensure_ascii=False, separators=(",", ":"))
            for name in ("before", "after")
        ]
        values = [row["created_at"], row["actor"], row["action"], row["tenant_id"], row["target"], *states, last]
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        assert row["prev_hash"] == last
        last = row["row_hash"]
        assert last == hashlib.sha256(text.encode()).hexdigest()
    return last


def test_the_chain_can_be_followed_by_any_tool_in_what_is_exported(tmp_path):
    async def scenario(books):
        for first in range(0, 12, 3):
            await write(books, entries(3, first))
        head, found = await findings(books)
        jsonl = await exported(books)
        assert found == []
        assert head.entries == len(jsonl.splitlines()) == 12
        assert follow_by_hand(jsonl) == head.last_hash
        assert json.loads(jsonl.splitlines()[1])["before"] == STATES[1]

    run_on_books(tmp_path, scenario)


def test_an_export_is_read_in_pieces_and_goes_on_where_one_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("tollhouse.audit.export._ROWS_AT_ONCE", 3)

    async def scenario(books):
        await write(books, entries(6))
        whole = await exported(books)
        pieces = [piece async for piece in export(books.database, tenant_id=None, action=None, after_id=0)]
        assert [piece.count(b"\n") for piece in pieces] == [3, 3]
        third = json.loads(whole.splitlines()[2])["id"]
        assert await exported(books, after_id=third) == b"".join(whole.splitlines(keepends=True)[3:])
        assert await exported(books, tenant_id="43") == await exported(books, action="x") == b""
        assert await exported(books, tenant_id="42", action="tenant.updated") == whole

    run_on_books(tmp_path, scenario)


@pytest.mark.engine("postgresql")
def test_many_writers_of_two_instances_make_one_chain(tmp_path):
    async def scenario(one, other):
        logs = [AuditLog(books.database, books.clock) for books in (one, other)]
        recording = [
            logs[n % 2].record("a.b", tenant_id="42", target=str(n), before=None, after=None) for n in range(60)
        ]
        writing = [write((one, other)[n % 2], entries(2, n)) for n in range(20)]
        await asyncio.gather(*recording, *writing)
        head, found = await findings(one)
        assert found == []
        assert head.entries == 100

    run_on_two(tmp_path, scenario)


# What somebody did by hand, as the database's owner could.

SET = "UPDATE ai_audit_log SET"
DEEDS = {
    "changed": ([f"{SET} actor = 'nobody' WHERE id = 3"], ["ai_audit_log 3: row_hash does not fit"]),
    "a state changed": ([f"{SET} \"after\" = '{{}}' WHERE id = 2"], ["ai_audit_log 2: row_hash does not fit"]),
    "a state taken": ([f'{SET} "before" = NULL WHERE id = 2'], ["ai_audit_log 2: row_hash does not fit"]),
    "deleted": (["DELETE FROM ai_audit_log WHERE id = 3"], ["ai_audit_log 4: prev_hash", "ai_audit_head 1: 6"]),
    "inserted": (
        [
            "CREATE TABLE third AS SELECT * FROM ai_audit_log WHERE id = 3",
            "UPDATE third SET id = 7",
            "INSERT INTO ai_audit_log SELECT * FROM third",
        ],
        ["ai_audit_log 7: prev_hash", "ai_audit_head 1: 6"],
    ),
    "swapped": (
        [f"{SET} id = 99 WHERE id = 2", f"{SET} id = 2 WHERE id = 3", f"{SET} id = 3 WHERE id = 99"],
        ["ai_audit_log 2: prev_hash", "ai_audit_log 3: prev_hash", "ai_audit_log 4: prev_hash"],
    ),
    "the first taken out": (["DELETE FROM ai_audit_log WHERE id = 1"], ["ai_audit_log 2: prev_hash", "ai_audit_head"]),
    "the last taken out": (["DELETE FROM ai_audit_log WHERE id = 6"], ["ai_audit_head 1: 6 entries were written, 5"]),
    "all taken out": (["DELETE FROM ai_audit_log"], ["ai_audit_head 1: 6 entries were written, 0"]),
    "the head taken out": (["DELETE FROM ai_audit_head"], ["ai_audit_head 1: 0 entries were written, 6"]),
    "the head changed": ([f"UPDATE ai_audit_head SET last_hash = '{GENESIS_HASH}'"], ["ai_audit_head 1: last_hash"]),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_was_done_by_hand_is_found_and_named(tmp_path, deed):
    statements, expected = DEEDS[deed]

    async def scenario(books):
        await write(books, entries(6))
        assert (await findings(books))[1] == []
        await books.database.write(lambda connection: by_hand(connection, *statements))
        _, found = await findings(books)
        assert [problem.startswith(start) for problem, start in zip(found, expected, strict=True)] == [
            True for _ in expected
        ], found
        # The same is said of the books as a whole.
        assert [f"{each.table} {each.row}: {each.problem}" for each in (await books.verify()).findings] == found

    run_on_books(tmp_path, scenario, is_consistent=False)


def by_hand(connection, *statements):
    if connection.dialect.name == "postgresql":
        statements = (
            "ALTER TABLE ai_audit_log DISABLE TRIGGER USER",
            "GRANT UPDATE, DELETE ON ai_audit_log TO CURRENT_USER",
            *statements,
        )
    else:
        names = connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all()
        statements = (*(f"DROP TRIGGER {name}" for name in names), *statements)
    for statement in statements:
        connection.execute(sa.text(statement))


def rewrite(connection):
    """Take the last entries out, and bring the head in line with what is left."""
    by_hand(
        connection,
        "DELETE FROM ai_audit_log WHERE id > 4",
        "UPDATE ai_audit_head SET entries = 4, last_hash = (SELECT row_hash FROM ai_audit_log WHERE id = 4)",
    )


def test_a_tail_cut_off_together_with_its_head_is_found_by_an_anchor_alone(tmp_path):
    async def scenario(books):
        await write(books, entries(4))
        early, _ = await findings(books)
        await write(books, entries(2))
        late, _ = await findings(books)
        for anchor in (early, late, Head()):
            assert (await findings(books, anchor))[1] == []
        await books.database.write(rewrite)
        # Without an anchor it is a chain like any other, which docs/administration.md says.
        assert (await findings(books))[1] == []
        assert (await findings(books, early))[1] == []
        (problem,) = (await findings(books, late))[1]
        assert problem.startswith("ai_audit_log row 4: is the last of 4 entries; there were 6 at the anchor")
        await write(books, entries(2, first=7))
        (problem,) = (await findings(books, late))[1]
        assert problem.startswith(("ai_audit_log 6: is entry 6:", "ai_audit_log 8: is entry 6:"))
        assert "rewritten since" in problem

    run_on_books(tmp_path, scenario)
