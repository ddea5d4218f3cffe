"""Databases of earlier versions, with all that was in them: nothing is lost, and the books go on."""

import asyncio

import pytest
import sqlalchemy as sa
from alembic import command

from harness import engines
from harness.books import hash_by_hand, open_books, reservation, settlement
from harness.clock import FakeClock
from harness.postgres import ROLE, new_database, shared_server
from tollhouse.budgets.model import Reservation
from tollhouse.gate.admission import Replay
from tollhouse.idempotency.model import claim
from tollhouse.providers.usage import Usage
from tollhouse.storage import migrate
from tollhouse.storage.postgres import control
from tollhouse.storage.schema import metadata

pytestmark = pytest.mark.usefixtures("on_each_engine")

KEPT = claim("th_secret", "order-7", b"body", "2026-06-11T12:00:00.000Z")
NEW_COLUMNS = {"epoch", "other_usage"}
EARLIER = ("0001", "0002")
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
            return await books.database.read(everything)

    with engines.using("sqlite"):
        found = asyncio.run(main())
    for row in found["ai_usage_log"]:
        row["id"] *= 10
    return found


def everything(connection):
    return {
        table.name: [
            {name: value for name, value in row.items() if name not in NEW_COLUMNS}
            for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
        ]
        for table in metadata.sorted_tables
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
        assert "other_usage" not in {column["name"] for column in sa.inspect(connection).get_columns("ai_usage_log")}
        if engines.current() == "postgresql" and revision != "0001":
            for month in MONTHS:
                open_month(connection, month)
        for name, rows in content.items():
            if rows:
                table = sa.Table(name, sa.MetaData(), autoload_with=connection)
                connection.execute(sa.insert(table), rows)
        if engines.current() == "postgresql":
            connection.execute(sa.text("SELECT setval('ai_usage_log_id_seq', max(id)) FROM ai_usage_log"))
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


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("table", ["ai_usage_log", "ai_usage_log_2026_04", "ai_usage_log_2026_05"])
@pytest.mark.parametrize("change", ["UPDATE {} SET tenant_id = '43'", "DELETE FROM {}", "TRUNCATE {}"])
def test_months_that_were_there_take_further_rows_only(path, table, change):
    engine = control.open_engine(engines._urls[path])
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as caught:
        connection.execute(sa.text(change.format(table)))
    assert caught.value.orig is not None
    assert getattr(caught.value.orig, "sqlstate", "") in {"23001", "42501"}
    engine.dispose()


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("right", ["UPDATE", "DELETE", "TRUNCATE"])
def test_nobody_has_a_right_to_change_months_that_were_there(path, right):
    for table in ("ai_usage_log", "ai_usage_log_2026_04", "ai_usage_log_2026_05"):
        name = engines.database_name(engines._urls[path])
        (row,) = shared_server().execute("SELECT has_table_privilege($1, $2, $3)", name, ROLE, table, right)
        assert not row[0]
