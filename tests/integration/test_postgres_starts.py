"""What ``serve`` finds on a PostgreSQL server and does with it, and ``migrate``, which goes before it."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config

import tollhouse.storage
from harness.calls import body_for
from harness.engines import migrated
from harness.postgres import ROLE, new_database, shared_server
from harness.service import Service, change_by_hand, eventually, free_port, limits, model, providers, refused, serving
from tollhouse.storage.postgres.control import open_engine, shown
from tollhouse.storage.schema import REVISION
from tollhouse.testing import FakeProvider

pytestmark = pytest.mark.engine("postgresql")

PASSWORD = "pass-word-of-the-database"
TABLES = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"


def at_first_schema(url: str) -> None:
    """Migrate to the schema that came before PostgreSQL did: the oldest that a database can be at."""
    config = Config()
    config.set_main_option("script_location", str(Path(tollhouse.storage.__file__).with_name("migrations")))
    engine = open_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


def nothing(_url: str) -> None:
    """Leave a new database empty."""


def not_started(folder: Path, url: str) -> Service:
    """Return a service with this database, for commands that end by themselves."""
    return Service(folder, limits(), url=url)


def schema_of(url: str) -> tuple[object, ...]:
    with psycopg.connect(url) as connection:
        (tables,) = connection.execute(TABLES).fetchone() or ("",)
        if not tables:
            return (None,)
        return (tables, *(connection.execute("SELECT version_num FROM alembic_version").fetchone() or ()))


@pytest.fixture(params=[nothing, at_first_schema], ids=["empty", "at the first schema"])
def found(request: pytest.FixtureRequest) -> str:
    return new_database(request.param)


# Serving.


def test_an_empty_database_is_set_up_by_the_first_start(tmp_path):
    with FakeProvider() as fake:
        config = providers(fake) + model("m", "openai") + limits()
        with serving(tmp_path, config, url=new_database()) as service:
            assert service.complete(body_for(service.tenant(), model="m")).status == 200
            assert service.query("SELECT version_num FROM alembic_version") == [{"version_num": REVISION}]
            assert service.findings() == []


def test_two_that_find_a_database_empty_both_come_to_serve_from_it(tmp_path):
    url = new_database()
    with FakeProvider() as fake, ExitStack() as stack:
        config = providers(fake) + model("m", "openai") + limits()
        services = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            services.append(Service(tmp_path / name, config, url=url))
        with ThreadPoolExecutor() as threads:
            starts = [threads.submit(stack.enter_context, service) for service in services]
        assert [start.exception() for start in starts] == [None, None]
        tenant = services[0].tenant()
        assert [service.complete(body_for(tenant, model="m")).status for service in services] == [200, 200]


def test_an_older_database_is_refused_and_left_as_it_is_until_it_is_migrated(tmp_path):
    url = new_database(at_first_schema)
    service, before = not_started(tmp_path, url), schema_of(url)

    said = refused(service.run("serve"))

    assert said == (
        f"tollhouse: error: {shown(url)}: it is at schema 0001; expected schema {REVISION}, which `tollhouse migrate` "
        "brings it to\n"
    )
    assert schema_of(url) == before
    migrated_it = service.run("migrate")
    assert (migrated_it.returncode, migrated_it.stderr) == (0, "")
    assert migrated_it.stdout == f"{shown(url)} was migrated from schema 0001 to {REVISION}\n"
    with service:
        assert service.request("GET", "/readyz", key=None).status == 200


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path):
    url = new_database(migrated)
    change_by_hand(url, "UPDATE alembic_version SET version_num = '9999'")
    service, before = not_started(tmp_path, url), schema_of(url)

    for arguments in (["serve"], ["migrate"], ["tenant", "list"]):
        said = refused(service.run(*arguments))
        assert f"is at schema 9999, which this Tollhouse (schema {REVISION}) does not know" in said, arguments

    assert schema_of(url) == before


def test_a_database_with_functions_of_another_version_is_refused_until_it_is_migrated(tmp_path):
    url = new_database(migrated)
    change_by_hand(url, "UPDATE ai_settings SET value = 'another' WHERE name = 'functions_digest'")
    change_by_hand(url, "DROP FUNCTION ai_declare_lost")
    service = not_started(tmp_path, url)

    assert "its functions are another version's; `tollhouse migrate` brings it up to date" in refused(
        service.run("serve")
    )

    assert service.run("migrate").returncode == 0
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_proc WHERE proname = 'ai_declare_lost'").fetchone() == (1,)
    assert service.findings() == []


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    url = new_database()
    change_by_hand(url, "CREATE TABLE customers (id bigint PRIMARY KEY)")
    service = not_started(tmp_path, url)

    for arguments in (["serve"], ["migrate"]):
        assert "holds tables of another program (customers" in refused(service.run(*arguments))

    with psycopg.connect(url) as connection:
        assert connection.execute(TABLES).fetchone() == ("customers",)


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("wrong password", ["serve"]),
        ("wrong password", ["migrate"]),
        ("wrong password", ["tenant", "list"]),
        ("nobody listens", ["serve"]),
        ("no such database", ["serve"]),
    ],
)
def test_a_server_that_cannot_be_used_is_told_without_the_password(tmp_path, place, arguments):
    port = shared_server().port
    url, reason = {
        "wrong password": (f"{ROLE}:{PASSWORD}@127.0.0.1:{port}/postgres", "password authentication failed for user"),
        "nobody listens": (f"{ROLE}:{PASSWORD}@127.0.0.1:{free_port()}/postgres", "Connection refused"),
        "no such database": (f"{ROLE}:{ROLE}@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
    }[place]

    said = refused(not_started(tmp_path, f"postgresql://{url}").run(*arguments))

    assert reason in said
    name = url.replace(f":{PASSWORD}@", "@").replace(f":{ROLE}@", "@")
    assert said.startswith(f"tollhouse: error: postgresql://{name}: cannot be "), "it says which server"
    assert PASSWORD not in said
    assert f"{ROLE}:{ROLE}" not in said


# Migrating.


def test_migrating_twice_changes_something_once(tmp_path, found):
    service, before = not_started(tmp_path, found), schema_of(found)[-1]

    told = [json.loads(service.run("migrate", "--json").stdout) for _ in range(2)]

    name = shown(found)
    assert told == [
        {"database": name, "revision_before": before, "revision": REVISION},
        {"database": name, "revision_before": REVISION, "revision": REVISION},
    ]
    assert service.findings() == []


def test_two_migrations_at_once_are_one_after_the_other(tmp_path, found):
    service, before = not_started(tmp_path, found), schema_of(found)[-1]
    with psycopg.connect(found) as connection:
        # Both have begun, and wait for their turn.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('tollhouse migrate', 0))")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tollhouse", "migrate", "--json", "-c", service.config_file],
                cwd=tmp_path,
                env=service.environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: len(service.query(waiting)) == 2)

    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]

    assert [(error, code) for (_, error), code in ended] == [("", 0)] * 2
    befores = [json.loads(output)["revision_before"] for (output, _), _ in ended]
    assert sorted(befores, key=str) == sorted([before, REVISION], key=str), "one did it, and the other found it done"
    assert service.findings() == []
