"""Databases made, upgraded and refused on PostgreSQL; and what a role may do to the ledger then."""

import threading
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from harness.engines import database_name, migrated
from harness.postgres import new_database, shared_server
from tollhouse.errors import StartError
from tollhouse.storage import migrate
from tollhouse.storage.postgres import control
from tollhouse.storage.schema import REVISION, cluster_metadata, metadata

LEDGER = "ai_usage_log"
APPEND_ONLY = (LEDGER, "ai_audit_log")


def run(url, sql):
    shared_server().execute(sql, database_name(url))


def look(url, work):
    engine = control.open_engine(url)
    try:
        with engine.connect() as connection:
            return work(connection)
    finally:
        engine.dispose()


def check(url):
    engine = control.open_engine(url)
    try:
        control.check_schema(engine, url)
    finally:
        engine.dispose()


def refused(url):
    with pytest.raises(StartError) as caught:
        check(url)
    assert str(caught.value).startswith(control.shown(url) + ": ")
    return str(caught.value)


def tables(url):
    return look(url, lambda connection: sa.inspect(connection).get_table_names())


def functions(url):
    names = "SELECT proname FROM pg_proc WHERE proname LIKE 'ai_%' ORDER BY proname"
    return [row[0] for row in shared_server().execute(names, database_name(url))]


# Making and upgrading.


def test_an_empty_database_is_set_up_by_whoever_starts_first(empty_url):
    check(empty_url)
    assert look(empty_url, migrate.is_current)
    check(empty_url)
    assert look(empty_url, migrate.problem_of) is None


def test_migrating_tells_where_it_began_and_again_changes_nothing(empty_url):
    assert control.migrate_database(empty_url) is None
    before = tables(empty_url), functions(empty_url)
    assert control.migrate_database(empty_url) == REVISION
    assert (tables(empty_url), functions(empty_url)) == before


def test_of_many_that_migrate_at_once_one_does_and_all_find_it_done(empty_url):
    failures = []

    def migrating():
        try:
            control.migrate_database(empty_url)
            check(empty_url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrating) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert look(empty_url, migrate.is_current)


def test_a_migration_that_fails_leaves_nothing_behind(empty_url):
    run(empty_url, "CREATE VIEW tenant_ai_features AS SELECT 1")
    with pytest.raises(StartError, match="already exists"):
        control.migrate_database(empty_url)
    assert tables(empty_url) == []
    assert functions(empty_url) == []


def test_functions_of_another_version_are_replaced_by_a_migration_alone(url):
    run(url, "UPDATE ai_settings SET value = 'another' WHERE name = 'functions_digest'")
    run(url, "DROP FUNCTION ai_move")
    assert "its functions are another version's; `tollhouse migrate`" in refused(url)
    assert control.migrate_database(url) == REVISION
    check(url)
    assert "ai_move" in functions(url)


def test_an_older_database_is_left_to_whoever_operates_it(empty_url):
    upgrade_to(empty_url, "0001")
    assert f"at schema 0001; expected schema {REVISION}, which `tollhouse migrate` brings it to" in refused(empty_url)
    assert look(empty_url, migrate.schema_revision) == "0001"
    assert control.migrate_database(empty_url) == "0001"
    check(empty_url)


def test_a_database_with_calls_under_way_gets_its_limits_and_keeps_them(empty_url):
    upgrade_to(empty_url, "0004")
    engine = control.open_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO ai_rate_limits (tenant_id, full_at_us) VALUES ('42', 1)"))
        connection.execute(
            sa.text(
                "INSERT INTO ai_reservations (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, "
                "model, provider, price_version, ceiling_nano_usd, billing_period, created_at, state, epoch) VALUES "
                "('req_1', 1, '42', 'u', 'f', 's', 'k', 'm', 'p', 'v', 7, '2026-04', '2026-04-10', 'open', 3)"
            )
        )
    engine.dispose()
    assert control.migrate_database(empty_url) == "0004"
    kept = sa.text("SELECT request_id, ceiling_nano_usd, epoch, tokens FROM ai_reservations")
    assert look(empty_url, lambda connection: connection.execute(kept).all()) == [("req_1", 7, 3, 0)]
    buckets = sa.text("SELECT count(*) FROM ai_rate_limits")
    assert look(empty_url, lambda connection: connection.scalar(buckets)) == 0
    check(empty_url)


def upgrade_to(url, revision):
    from alembic import command

    engine = control.open_engine(url)
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@pytest.mark.parametrize("upgrade", [check, control.migrate_database])
def test_a_newer_database_is_refused_and_not_touched(url, upgrade):
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match=f"at schema 9999, which this Tollhouse .schema {REVISION}. does not know"):
        upgrade(url)
    assert look(url, migrate.schema_revision) == "9999"


@pytest.mark.parametrize("upgrade", [check, control.migrate_database])
@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE customers (id integer)",
        "CREATE TABLE ai_usage_log (id integer)",
        f"CREATE TABLE customers AS SELECT 1 AS id; CREATE TABLE alembic_version AS SELECT '{REVISION}' AS version_num",
    ],
)
def test_another_programs_database_is_refused_and_not_touched(empty_url, upgrade, script):
    for statement in script.split(";"):
        run(empty_url, statement)
    before = tables(empty_url)
    with pytest.raises(StartError, match="tables of another program"):
        upgrade(empty_url)
    assert tables(empty_url) == before


@pytest.mark.parametrize("upgrade", [check, control.migrate_database])
def test_a_server_that_cannot_be_used_is_told_without_the_password(url, upgrade):
    for wrong in (url.replace("tollhouse:tollhouse@", "tollhouse:secret@"), url + "_nowhere"):
        with pytest.raises(StartError) as caught:
            upgrade(wrong)
        assert control.shown(url) in str(caught.value)
        assert "secret" not in str(caught.value)


# What the schema describes.


def test_migrating_gives_what_the_schema_describes(url):
    described: Any = [metadata, cluster_metadata]
    differences = look(url, lambda connection: compare_metadata(MigrationContext.configure(connection), described))
    # Indexes on a part of the rows are PostgreSQL's own, and the keys of the ledger hold its months.
    found = {(what, subject.name) for what, subject, *_ in differences}
    assert found == {
        ("remove_index", "ai_reservations_open"),
        ("remove_index", "ai_reservations_open_of_key"),
        ("remove_index", "ai_idempotency_unanswered"),
        ("remove_constraint", "ai_usage_log_attempt"),
        ("add_constraint", "ai_usage_log_attempt"),
    }


def test_migrated_tables_have_the_very_columns_keys_and_checks_that_the_schema_describes(url, empty_url):
    def described(connection):
        inspector = sa.inspect(connection)
        return {
            name: (
                [
                    (column["name"], str(column["type"]), column["nullable"], column.get("identity") is not None)
                    for column in inspector.get_columns(name)
                ],
                sorted(inspector.get_pk_constraint(name)["constrained_columns"]),
                sorted(check["sqltext"] for check in inspector.get_check_constraints(name)),
                sorted(sorted(unique["column_names"]) for unique in inspector.get_unique_constraints(name)),
                sorted(
                    index["column_names"]
                    for index in inspector.get_indexes(name)
                    if not index.get("dialect_options", {}).get("postgresql_where")
                ),
            )
            for name in inspector.get_table_names()
            if name != "alembic_version"
        }

    def make(connection):
        for each in (metadata, cluster_metadata):
            each.create_all(connection)
        return described(connection)

    expected, found = look(empty_url, make), look(url, described)
    with_months = found.pop(LEDGER)
    plain = expected.pop(LEDGER)
    assert found == expected
    columns, key, checks, (unique,), _ = with_months
    assert (columns, checks) == (plain[0], plain[2])
    assert key == ["billing_period", "id"]
    assert unique == sorted([*plain[3][0], "billing_period"])


def test_no_month_is_there_before_its_first_call(url):
    assert [name for name in tables(url) if name.startswith(LEDGER)] == [LEDGER]


# Who may do what.

ROLE = "tollhouse_service"


@pytest.fixture(scope="module")
def with_service():
    """How its owner, a role that serves from it and a superuser reach a database with rows in ledger and audit log."""
    server = shared_server()
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")
    url = new_database(migrated)
    insert(url, "2026-04")
    # What was there before and what came after are granted alike.
    control.migrate_database(url, ROLE)
    service_url = url.replace("tollhouse:tollhouse@", f"{ROLE}:{ROLE}@")
    insert(service_url, "2026-05")
    with psycopg.connect(service_url) as connection:
        connection.execute(
            "INSERT INTO ai_audit_log (created_at, actor, action, tenant_id, target) VALUES ('now', 'a', 'b', '42', '')"
        )
    name = database_name(url)
    superuser = f"host={server._socket_folder} port={server.port} user=postgres dbname={name}"
    yield {"owner": url, "service": service_url, "superuser": superuser}
    server.drop_database(name)
    server.execute(f"DROP ROLE {ROLE}")


TEXT_COLUMNS = (
    *("tenant_id", "user_id", "feature_slug", "service", "key_id", "model", "provider", "price_version"),
    *("usage_source", "finish_reason", "admitted_at", "created_at", "prev_hash", "row_hash"),
)


def insert(url, month):
    columns = {
        "request_id": f"req_{month}",
        "attempt": 1,
        "latency_ms": 1,
        "status": "settled",
        "billing_period": month,
        **dict.fromkeys(TEXT_COLUMNS, "x"),
    }
    with psycopg.connect(url) as connection:
        connection.execute("SELECT ai_open_month(%s)", [month])
        connection.execute(
            f"INSERT INTO ai_usage_log ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
            list(columns.values()),
        )


PLACES = [*APPEND_ONLY, "ai_usage_log_2026_04", "ai_usage_log_2026_05"]


@pytest.mark.parametrize("who", ["owner", "service", "superuser"])
@pytest.mark.parametrize("table", PLACES)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {} SET tenant_id = '43'",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "TRUNCATE {} CASCADE",
        "INSERT INTO {0} SELECT * FROM {0} ON CONFLICT DO UPDATE SET tenant_id = '43'",
        "MERGE INTO {0} USING {0} AS other ON {0}.id = other.id WHEN MATCHED THEN DELETE",
    ],
)
def test_no_row_of_ledger_and_audit_log_is_changed_or_deleted(with_service, who, table, change):
    if "DO UPDATE" in change:
        key = "(id)" if table == "ai_audit_log" else "(id, billing_period)"
        change = change.replace("CONFLICT", f"CONFLICT {key}")
    name = database_name(with_service["owner"])
    before = shared_server().execute(f"SELECT * FROM {table}", name)
    assert before
    with (
        psycopg.connect(with_service[who]) as connection,
        pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)),
    ):
        connection.execute(change.format(table))
    assert shared_server().execute(f"SELECT * FROM {table}", name) == before


@pytest.mark.parametrize("table", PLACES)
@pytest.mark.parametrize("right", ["UPDATE", "DELETE", "TRUNCATE"])
@pytest.mark.parametrize("who", ["tollhouse", ROLE])
def test_there_is_no_right_to_change_them_even_without_the_triggers(with_service, who, table, right):
    (row,) = shared_server().execute(
        "SELECT has_table_privilege($1, $2, $3)", database_name(with_service["owner"]), who, table, right
    )
    assert not row[0]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ai_usage_log DISABLE TRIGGER USER",
        "ALTER TABLE ai_usage_log DETACH PARTITION ai_usage_log_2026_04",
        "DROP TABLE ai_usage_log_2026_04",
        "CREATE TABLE mine (id integer)",
        "CREATE OR REPLACE FUNCTION ai_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "UPDATE alembic_version SET version_num = '0'",
        "SET session_replication_role = replica",
    ],
)
def test_a_service_cannot_change_what_protects_the_ledger(with_service, statement):
    with (
        psycopg.connect(with_service["service"]) as connection,
        pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject)),
    ):
        connection.execute(statement)


def test_a_service_needs_no_more_than_it_was_granted(with_service):
    check(with_service["service"])


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "x'; DROP TABLE ai_usage_log; --", "2026-04-01"])
def test_only_months_can_be_opened(url, month):
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.RaiseException, match="expected a month"):
        connection.execute("SELECT ai_open_month(%s)", [month])


def test_of_two_that_open_a_month_at_once_the_second_waits_and_finds_it(url):
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
    with psycopg.connect(url) as one, psycopg.connect(url) as other:
        # What it knows of the database is from before.
        other.execute("SELECT to_regclass('ai_usage_log_2026_09')")
        one.execute("SELECT ai_open_month('2026-09')")
        opening = threading.Thread(target=other.execute, args=["SELECT ai_open_month('2026-09')"])
        opening.start()
        while not shared_server().execute(waiting, "postgres", database_name(url)):
            assert opening.is_alive()
        one.commit()
        opening.join()
        other.commit()
    assert "ai_usage_log_2026_09" in tables(url)
