"""Databases of earlier versions, with all that was in them: nothing is lost, and the books go on."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from harness import engines
from harness.books import hash_by_hand, open_books, reservation, settlement
from harness.clock import FakeClock
from harness.postgres import ROLE, new_database, shared_server
from tollhouse.audit import store as audit
from tollhouse.audit.chain import GENESIS_HASH
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.service import AuditLog
from tollhouse.budgets.model import Reservation
from tollhouse.gate.admission import Replay
from tollhouse.idempotency.model import claim
from tollhouse.keys import store as keys
from tollhouse.keys.model import ServiceKey
from tollhouse.providers.usage import Usage
from tollhouse.storage import migrate
from tollhouse.storage.postgres import control
from tollhouse.storage.schema import metadata

pytestmark = pytest.mark.usefixtures("on_each_engine")

KEPT = claim("th_secret", "order-7", b"body", "2026-06-11T12:00:00.000Z")
EARLIER = ("0001", "0002", "0003")
# What a later version has that the first had not.
NEW_TABLES = {"ai_audit_head"}
NEW_COLUMNS = {
    "ai_reservations": {"epoch"},
    "ai_idempotency": {"epoch"},
    "ai_usage_log": {"other_usage"},
    "ai_audit_log": {"prev_hash", "row_hash"},
    "ai_service_keys": {"first_used_at"},
}
AUDIT_ENTRIES = 7
# More than a migration reads at once.
MANY_ENTRIES = 1003
MONTHS = ("2026-04", "2026-05")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The rows of all tables after a while, as the first version wrote them; the ids of the ledger have gaps."""
    path = tmp_path_factory.mktemp("content") / "db"
    clock = FakeClock("2026-04-30T23:59:00Z")

    async def main():
        async with open_books(path, clock) as books:
            for tenant_id in ("42", "Zürich"):
                await books.set_tenant(tenant_id)
            await books.set_cap("user", "u", 5000)
            for _ in range(2):
                for tenant_id in ("42", "Zürich"):
                    await books.ledger.settle(settlement(await books.reserve(100, tenant_id=tenant_id), 10))
                answered = reservation(at=f"{books.period}-10T12:00:00.000Z")
                if books.period == "2026-04":
                    await books.admit(answered, KEPT)
                    await books.ledger.settle(settlement(answered, 1, claim=KEPT, sealed_answer=b"sealed"))
                await books.ledger.hold(await books.reserve(70, user_id='"\\'), 1)
                resolved = await books.reserve(50)
                await books.ledger.hold(resolved, 1)
                await books.ledger.settle(settlement(resolved, 30, status="adjustment"))
                clock.advance(120)
            await books.reserve(5, request_id="req_open")
            await books.database.write(write_audit)
            return await books.database.read(everything)

    with engines.using("sqlite"):
        found = asyncio.run(main())
    for row in found["ai_usage_log"]:
        row["id"] *= 10
    for row in found["ai_audit_log"]:
        row["id"] = row["id"] * 3 + row["id"] % 2
    return found


def write_audit(connection):
    keys.add(connection, ServiceKey("key_1", "shop", "service", None, "", "00", "2026-04-01T00:00:00.000Z", None))
    texts = ("", '"\\', "Zürich \u2028 \x01\t\x7f 𝄞", "<&/>")
    states: tuple[Any, ...] = (None, {"name": texts[2], "cap_nano_usd": 2**53 + 1}, {"a": [None, True, "\n"]}, {})
    audit.append_all(
        connection,
        [
            AuditEntry(
                "2026-04-30T23:59:00.000Z", "admin", "tenant.updated", texts[n % 4], texts[n % 3], states[n % 4], n
            )
            for n in range(AUDIT_ENTRIES)
        ],
    )


def everything(connection):
    return {
        table.name: [
            {name: value for name, value in row.items() if name not in NEW_COLUMNS.get(table.name, ())}
            for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
        ]
        for table in metadata.sorted_tables
        if table.name not in NEW_TABLES
    }


@pytest.fixture(params=EARLIER)
def revision(request):
    return request.param


def make_earlier(path, content, revision):
    """Make a database as an earlier version would have left it."""
    if engines.current() == "sqlite":
        engine = sa.create_engine(f"sqlite:///{path}")
    else:
        engines._urls[path] = new_database()
        engine = control.open_engine(engines._urls[path])
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        columns = {column["name"] for column in sa.inspect(connection).get_columns("ai_usage_log")}
        assert ("other_usage" in columns) == (revision >= "0003")
        if engines.current() == "postgresql" and revision != "0001":
            for month in MONTHS:
                open_month(connection, month)
        for name, rows in content.items():
            if rows:
                table = sa.Table(name, sa.MetaData(), autoload_with=connection)
                connection.execute(sa.insert(table), rows)
        if engines.current() == "postgresql":
            for name in ("ai_usage_log", "ai_audit_log"):
                connection.execute(sa.text(f"SELECT setval('{name}_id_seq', max(id)) FROM {name}"))
    engine.dispose()


def open_month(connection, month):
    """Make a month's partition as the function ai_open_month does, in as few words as tell."""
    partition = f"ai_usage_log_{month.replace('-', '_')}"
    for statement in (
        f"CREATE TABLE {partition} PARTITION OF ai_usage_log FOR VALUES IN ('{month}')",
        f"CREATE TRIGGER ai_usage_log_no_truncate BEFORE TRUNCATE ON {partition} EXECUTE FUNCTION ai_refuse_change()",
        f"REVOKE UPDATE, DELETE, TRUNCATE ON {partition} FROM PUBLIC, CURRENT_USER",
    ):
        connection.exec_driver_sql(statement)


def upgrade(path, revision):
    if engines.current() == "postgresql":
        assert control.migrate_database(engines._urls[path]) == revision


@pytest.fixture
def path(tmp_path, content, revision):
    path = tmp_path / "db"
    make_earlier(path, content, revision)
    upgrade(path, revision)
    return path


def run(path, scenario):
    async def main():
        async with open_books(path, FakeClock("2026-05-20T12:00:00Z")) as books:
            await scenario(books)

    asyncio.run(main())


def test_rows_ids_and_hashes_are_what_they_were(path, content):
    async def scenario(books):
        found = await books.database.read(everything)
        # Which functions the database has is on record there.
        found["ai_settings"] = [row for row in found["ai_settings"] if row["name"] != "functions_digest"]
        assert found == content
        assert {row["billing_period"] for row in found["ai_usage_log"]} == set(MONTHS)
        assert {row.other_usage for row in await books.rows()} == {""}

    run(path, scenario)


def test_the_books_are_consistent_and_go_on(path, content):
    last = max(row["id"] for row in content["ai_usage_log"])

    async def scenario(books):
        report = await books.verify()
        assert report.is_consistent, report.findings
        assert report.entries == len(content["ai_usage_log"])
        assert await books.admit(reservation(), KEPT) == Replay(
            b"sealed", next(iter(content["ai_idempotency"]))["request_id"]
        )
        for at in ("2026-04", "2026-05", "2026-06"):
            books.clock.set(f"{at}-20T12:00:00Z")
            usage = Usage(3, audio_input_tokens=4, web_searches=1)
            await books.ledger.settle(settlement(await books.reserve(100), 10, usage=usage))
        (held,) = await books.database.read(unknown_of_april)
        await books.ledger.settle(settlement(held, 20, status="adjustment"))
        rows = await books.rows()
        assert all(row.id > last for row in rows[-4:])
        assert [row.other_usage for row in rows[-4:]] == ['{"audio_input_tokens":4,"web_searches":1}'] * 3 + [""]
        assert [row.row_hash for row in rows] == list(map(hash_by_hand, rows))
        report = await books.verify()
        assert report.is_consistent, report.findings
        assert report.entries == len(content["ai_usage_log"]) + 4

    run(path, scenario)


def unknown_of_april(connection):
    table = metadata.tables["ai_reservations"]
    held = sa.and_(table.c.state == "unknown", table.c.billing_period == "2026-04")
    rows = connection.execute(sa.select(table).where(held)).mappings()
    return [Reservation(**{name: row[name] for name in Reservation.__struct_fields__}) for row in rows]


def test_the_audit_log_is_chained_as_if_it_had_always_been_and_goes_on(path, content):
    async def scenario(books):
        await AuditLog(books.database, books.clock).record("a.b", tenant_id="", target="", before=None, after={"n": 1})
        report = await books.verify()
        assert report.is_consistent, report.findings
        assert report.audit_entries == AUDIT_ENTRIES + 1
        found = await books.database.read(
            lambda connection: audit.following(connection, tenant_id=None, action=None, after_id=0, limit=2000)
        )
        assert [entry_id for entry_id, *_ in found[:-1]] == [row["id"] for row in content["ai_audit_log"]]
        assert found[0][1].prev_hash == GENESIS_HASH
        assert [link.prev_hash for _, link, _ in found[1:]] == [row_hash for *_, row_hash in found[:-1]]
        assert report.audit_head == found[-1][2]

    run(path, scenario)


def test_a_long_audit_log_is_chained_piece_by_piece(tmp_path, content):
    many = [{**content["ai_audit_log"][n % AUDIT_ENTRIES], "id": n + 1} for n in range(MANY_ENTRIES)]
    make_earlier(tmp_path / "db", {**content, "ai_audit_log": many}, "0003")
    upgrade(tmp_path / "db", "0003")

    async def scenario(books):
        report = await books.verify()
        assert report.is_consistent, report.findings
        assert report.audit_entries == MANY_ENTRIES

    run(tmp_path / "db", scenario)


def refusals(url, changes):
    """Try each of some statements; return those that a rule of the database or the want of a right refused."""
    engine = sa.create_engine(url) if url.startswith("sqlite") else control.open_engine(url)
    refused = []
    for change in changes:
        try:
            with engine.begin() as connection:
                connection.execute(sa.text(change))
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError) as error:
            if getattr(error.orig, "sqlstate", "23001") in {"23001", "42501"}:
                refused.append(change)
    engine.dispose()
    return refused


MONTHLY_TABLES = ("ai_usage_log", "ai_usage_log_2026_04", "ai_usage_log_2026_05")


def test_rows_that_were_there_are_not_changed(path):
    changes = ["UPDATE {} SET tenant_id = '43'", "DELETE FROM {}"]
    tables = ["ai_usage_log", "ai_audit_log"]
    url = f"sqlite:///{path}"
    run(path, _nothing)
    if engines.current() == "postgresql":
        url = engines._urls[path]
        changes.append("TRUNCATE {}")
        tables += MONTHLY_TABLES
    tried = [change.format(table) for table in tables for change in changes]
    assert refusals(url, tried) == tried


async def _nothing(_books):
    return


@pytest.mark.engine("postgresql")
def test_nobody_has_a_right_to_change_rows_that_were_there(path):
    name = engines.database_name(engines._urls[path])
    held = [
        (table, right)
        for table in ("ai_audit_log", *MONTHLY_TABLES)
        for right in ("UPDATE", "DELETE", "TRUNCATE")
        if shared_server().execute("SELECT has_table_privilege($1, $2, $3)", name, ROLE, table, right)[0][0]
    ]
    assert held == []
