import asyncio
import contextlib
import sqlite3

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from harness.database import Put, Puts, open_database, settings
from tollhouse.errors import StartError
from tollhouse.storage import migrate
from tollhouse.storage.schema import REVISION, metadata


def open_once(path, work=settings):
    """Open a database, read something, and close it again."""

    async def main():
        async with open_database(path, {Put: Puts()}) as database:
            return await database.read(work)

    return asyncio.run(main())


def refused(path):
    """Return why a file is refused, having checked that this left it as it was."""
    before = path.read_bytes()
    with pytest.raises(StartError) as caught:
        open_once(path)
    assert path.read_bytes() == before
    assert {other.name for other in path.parent.iterdir()} == {path.name}
    assert str(path) in str(caught.value)
    return str(caught.value)


def run_sql(path, script):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "tollhouse.db"


@pytest.fixture
def migrated(database):
    open_once(database)
    return database


def test_an_empty_database_gets_the_newest_schema(database):
    assert open_once(database, migrate.schema_revision) == REVISION
    assert open_once(database, migrate.is_current)


def test_a_file_of_no_bytes_is_an_empty_database(database):
    database.touch()
    assert open_once(database, migrate.schema_revision) == REVISION


def test_a_new_database_is_what_the_migrations_come_to(migrated):
    with sa.create_engine("sqlite://", isolation_level="AUTOCOMMIT").connect() as connection:
        migrate.run_migrations(connection)
        made = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        by_migrations = [tuple(row) for row in connection.exec_driver_sql(made)]
    at_once = open_once(migrated, lambda connection: [tuple(row) for row in connection.exec_driver_sql(made)])
    assert without_spaces(at_once) == without_spaces(by_migrations)


def without_spaces(rows):
    """SQLite keeps statements as they were written, and files hold no spaces at the ends of lines."""
    return [tuple(None if value is None else "".join(value.split()) for value in row) for row in rows]


def test_the_newest_migration_is_the_one_the_code_expects():
    assert ScriptDirectory.from_config(migrate._config()).get_heads() == [REVISION]


def test_migrating_gives_what_the_schema_describes(migrated):
    differences = open_once(
        migrated, lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
    )
    assert differences == []


def test_migrated_tables_have_the_very_columns_keys_and_checks_that_the_schema_describes(migrated):
    def tables(connection):
        inspector = sa.inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)],
                inspector.get_pk_constraint(name)["constrained_columns"],
                sorted(check["sqltext"] for check in inspector.get_check_constraints(name)),
                sorted(unique["column_names"] for unique in inspector.get_unique_constraints(name)),
                sorted(index["column_names"] for index in inspector.get_indexes(name)),
                "WITHOUT ROWID"
                in connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE name=:n"), {"n": name}),
            )
            for name in inspector.get_table_names()
            if name != "alembic_version"
        }

    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        described = tables(connection)
    engine.dispose()
    assert open_once(migrated, tables) == described


def test_what_was_written_is_there_at_the_next_start(database):
    async def main():
        async with open_database(database, {Put: Puts()}) as opened:
            await opened.submit(Put("name", "value"))

    asyncio.run(main())
    assert open_once(database) == {"name": "value"}


def test_a_database_with_calls_under_way_gets_its_limits_and_keeps_them(database):
    from alembic import command

    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.execute(
            sa.text(
                "INSERT INTO ai_reservations (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, "
                "model, provider, price_version, ceiling_nano_usd, billing_period, created_at, state) VALUES "
                "('req_1', 1, '42', 'u', 'f', 's', 'k', 'm', 'p', 'v', 7, '2026-04', '2026-04-10', 'open')"
            )
        )
    engine.dispose()
    kept = sa.text("SELECT request_id, ceiling_nano_usd, tokens FROM ai_reservations")
    limits = sa.text("SELECT count(*) FROM ai_limits")
    found = open_once(database, lambda connection: (connection.execute(kept).all(), connection.scalar(limits)))
    assert found == ([("req_1", 7, 0)], 0)


def test_a_migration_that_fails_leaves_nothing_behind(database):
    # The last table but one cannot be made, since its name is taken by what is no table.
    run_sql(database, "CREATE VIEW tenant_ai_features AS SELECT 1")
    with pytest.raises(StartError, match="already exists"):
        open_once(database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("tenant_ai_features",)]


def test_a_newer_database_is_refused_and_not_touched(migrated):
    run_sql(migrated, "UPDATE alembic_version SET version_num = '9999'")
    assert f"at schema 9999, which this Tollhouse (schema {REVISION}) does not know" in refused(migrated)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE customers (id INTEGER)",
        "CREATE TABLE customers (id INTEGER); CREATE TABLE alembic_version (version_num TEXT)",
        f"CREATE TABLE customers (id INTEGER); CREATE TABLE alembic_version AS SELECT '{REVISION}' AS version_num",
        "PRAGMA page_size = 512; CREATE TABLE ai_usage_log (id INTEGER)",
    ],
)
def test_another_programs_database_is_refused_and_not_touched(database, script):
    run_sql(database, script)
    assert "tables of another program" in refused(database)


@pytest.mark.parametrize(
    "content",
    [
        b"not a database at all, but a text somebody keeps here " * 100,
        b"SQLite format 3\0" + b"\xff" * 5000,
        b"\0" * 4096,
    ],
    ids=["text", "header only", "zeros"],
)
def test_a_file_that_is_no_database_is_refused_and_not_touched(database, content):
    database.write_bytes(content)
    assert "cannot be used as a database" in refused(database)


def test_a_damaged_database_is_refused_and_not_touched(migrated):
    content = bytearray(migrated.read_bytes())
    content[100:4096] = b"\xa5" * 3996
    migrated.write_bytes(content)
    assert "a damaged one is restored from a backup" in refused(migrated)


def test_a_folder_that_is_missing_and_a_path_that_is_a_folder_are_told(tmp_path):
    for path in (tmp_path / "nowhere" / "tollhouse.db", tmp_path):
        with pytest.raises(StartError, match="cannot be used as a database: unable to open database file"):
            open_once(path)
