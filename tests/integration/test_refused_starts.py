"""What ``tollhouse serve`` cannot start with: the embedded database's file, the configuration, the port."""

import contextlib
import socket
import sqlite3

import pytest

from harness.calls import body_for
from harness.service import limits, model, providers, refused, run, serving
from tollhouse.storage.schema import REVISION
from tollhouse.testing import FakeProvider

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a database that was just made."""
    directory = tmp_path_factory.mktemp("empty")
    assert run(directory, "migrate").returncode == 0
    return (directory / "tollhouse.db").read_bytes()


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        said = refused(run(tmp_path, "serve", "--port", str(port)))

    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert not (tmp_path / "tollhouse.db").exists()


def test_a_second_server_on_the_same_database_is_refused_and_the_first_goes_on(tmp_path):
    with FakeProvider() as fake, serving(tmp_path, providers(fake) + model("m", "openai") + limits()) as service:
        said = refused(service.run("serve"))

        assert f"in use by process {service.process.pid}, serving at http://127.0.0.1:{service.port}" in said
        assert service.complete(body_for(service.tenant(), model="m")).status == 200


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "tollhouse.db"
    file.write_bytes(b"not a database at all" * 200)
    before = file.read_bytes()

    said = refused(run(tmp_path, "serve", "--port", "0"))

    assert "tollhouse.db: cannot be used as a database: file is not a database" in said
    assert file.read_bytes() == before


def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path, empty_database):
    file = tmp_path / "tollhouse.db"
    damaged = bytearray(empty_database)
    damaged[100:4096] = b"\xff" * (4096 - 100)
    file.write_bytes(damaged)

    said = refused(run(tmp_path, "serve", "--port", "0"))

    assert "tollhouse.db: cannot be used as a database" in said
    assert "restored from a backup" in said
    assert file.read_bytes() == damaged


def test_a_database_whose_tables_are_damaged_is_refused(tmp_path, empty_database):
    file = tmp_path / "tollhouse.db"
    file.write_bytes(empty_database)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'ai_reservations'").fetchall()
    damaged = bytearray(empty_database)
    for (page,) in pages:
        damaged[(page - 1) * page_bytes : page * page_bytes] = b"\xff" * page_bytes
    file.write_bytes(damaged)

    result = run(tmp_path, "serve", "--port", "0")

    assert result.returncode == 2
    said = result.stderr.splitlines()[-1]
    assert "error: tollhouse.db: the database cannot be read: database disk image is malformed" in said
    assert "restored from a backup" in said


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path, empty_database):
    file = tmp_path / "tollhouse.db"
    file.write_bytes(empty_database)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = file.read_bytes()

    said = refused(run(tmp_path, "serve", "--port", "0"))

    assert f"is at schema 9999, which this Tollhouse (schema {REVISION}) does not know" in said
    assert file.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "tollhouse.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO customers VALUES (7)")
        connection.commit()
    before = file.read_bytes()

    said = refused(run(tmp_path, "serve", "--port", "0"))

    assert "holds tables of another program (customers" in said
    assert file.read_bytes() == before


def test_a_directory_that_is_not_there_is_told(tmp_path):
    said = refused(run(tmp_path, "serve", "--port", "0", TOLLHOUSE_DATABASE__URL="sqlite:///no/such/t.db"))

    assert "no/such/t.db.lock: cannot be created: No such file or directory" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            '[auth]\nadmin_key = "env:NOT_SET_ANYWHERE"\n',
            "mine.toml:2: [auth] admin_key: environment variable NOT_SET_ANYWHERE is not set",
            id="a secret that is missing",
        ),
        pytest.param(
            '[auth]\nadmin_key = "a-secret-in-plain-text-0123"\n',
            "mine.toml:2: [auth] admin_key: expected env:NAME or file:/path, never as plain text",
            id="a secret in plain text",
        ),
        pytest.param(
            "[server]\nhost = '127.0.0.1'\nprot = 1\n",
            "mine.toml:3: [server] prot: unknown key: expected one of admin_host,",
            id="a misspelt key",
        ),
        pytest.param("[server]\nport = 'x'\n", "mine.toml:2: [server] port", id="a value of another type"),
        pytest.param("[server\n", "mine.toml:1:8: not valid TOML", id="no TOML"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_told_with_its_file_and_line(tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)

    stderr = refused(run(tmp_path, "serve", "-c", "mine.toml", "--port", "0"))

    assert f"tollhouse: error: {said}" in stderr
    assert "plain-text-0123" not in stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.toml"], "nothing was made"


def test_a_configuration_that_is_not_there_is_told(tmp_path):
    assert "none.toml: no such file" in refused(run(tmp_path, "-c", "none.toml", "serve"))
