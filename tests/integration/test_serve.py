"""``tollhouse serve`` as a process: how it starts, what it cannot start with, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.service import Reply, Service, free_port, model, provider
from tollhouse.storage.schema import REVISION
from tollhouse.testing import Behaviour, FakeProvider

BODY = {
    "tenant_id": 42,
    "user_id": 101,
    "feature_slug": "sales-summary",
    "model": "small",
    "system_prompt": "You are a sales analyst.",
    "user_message": "Summarise today's sales.",
    "max_tokens": 100,
}


KEYS = {"TEST_ADMIN_KEY": "a" * 24, "TEST_PROVIDER_KEY": "k"}


@pytest.fixture(scope="module")
def provider_of_all() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(provider_of_all: FakeProvider) -> FakeProvider:
    provider_of_all.reset()
    return provider_of_all


def config_for(base_url: str) -> str:
    return str(provider("fake", "openai", base_url) + model("small", "fake"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, provider_of_all: FakeProvider) -> Iterator[Service]:
    """A service for the tests that leave it running."""
    directory = tmp_path_factory.mktemp("shared")
    with Service(directory, config_for(provider_of_all.base_url("openai"))) as service:
        service.tenant(42)
        yield service


@pytest.fixture
def service(tmp_path: Path, fake: FakeProvider) -> Iterator[Service]:
    """A service for a test that stops it."""
    with Service(tmp_path, config_for(fake.base_url("openai"))) as service:
        service.tenant(42)
        yield service


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a database that was just made."""
    directory = tmp_path_factory.mktemp("empty")
    assert run(directory, "migrate").returncode == 0
    return (directory / "tollhouse.db").read_bytes()


def run(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to end by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
    return subprocess.run(
        [sys.executable, "-m", "tollhouse", *arguments],
        cwd=directory,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, "it has not come about in half a minute"
        time.sleep(0.02)


class Background:
    """Calls made from threads of their own."""

    def __init__(self, service: Service, count: int) -> None:
        self.replies: list[Reply] = []
        self.errors: list[BaseException] = []
        self._service = service
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        try:
            self.replies.append(self._service.complete(BODY))
        except OSError as error:
            self.errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


# Serving.


def test_a_call_is_answered_and_its_row_is_in_the_ledger(shared, fake):
    fake.behave(Behaviour(content="Sales were fine.", input_tokens=312, output_tokens=3))

    reply = shared.complete(BODY)

    assert reply.status == 200, reply
    assert reply.json["content"] == "Sales were fine."
    [row] = shared.rows(request_id=reply.json["request_id"])
    assert (row["tenant_id"], row["user_id"], row["feature_slug"]) == ("42", "101", "sales-summary")
    assert (row["input_tokens"], row["output_tokens"], row["status"]) == (312, 3, "settled")
    assert row["cost_nano_usd"] == 312 * 800 + 3 * 4000 == reply.json["cost_usd"] * 10**9
    assert shared.budget(42)["posted_nano_usd"] == row["cost_nano_usd"]
    assert shared.budget(42)["reserved_nano_usd"] == 0
    assert shared.verify().returncode == 0


def test_the_log_is_json_and_tells_where_it_serves(shared):
    events = [json.loads(line) for line in shared.log().splitlines()]

    [serving] = [event for event in events if event["event"] == "serving"]
    assert serving["url"] == f"http://127.0.0.1:{shared.port}"
    assert shared.request("GET", "/readyz", key=None).status == 200


def test_the_lock_file_holds_a_working_super_admin_key_for_its_owner_alone(shared):
    lock = shared.database.with_name("tollhouse.db.lock")

    owner = json.loads(lock.read_text())

    assert (owner["pid"], owner["url"]) == (shared.process.pid, f"http://127.0.0.1:{shared.port}")
    assert lock.stat().st_mode & 0o777 == 0o600
    assert shared.request("GET", "/admin/tenants", key=owner["operator_token"]).status == 200


def test_without_a_file_everything_has_its_default_and_a_port_on_the_command_line_holds(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tollhouse", "serve", "--port", str(port)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"Tollhouse 0.1.0 serves at http://127.0.0.1:{port}\n"
        assert (tmp_path / "tollhouse.db").exists()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        process.stdout.close()


# Stopping.


def test_calls_in_flight_when_it_is_told_to_stop_are_answered_and_settled(service, fake):
    fake.behave(Behaviour(delay_s=1.5, input_tokens=10, output_tokens=5))
    calls = Background(service, 3)
    wait_until(lambda: len(fake.receipts()) == 3)

    assert service.terminate() == 0

    calls.join()
    assert calls.errors == []
    assert [reply.status for reply in calls.replies] == [200, 200, 200]
    assert {row["request_id"] for row in service.rows(status="settled")} == {
        reply.json["request_id"] for reply in calls.replies
    }
    assert service.open_reservations() == []
    assert service.verify().returncode == 0


def test_no_new_calls_are_taken_once_it_is_told_to_stop(service, fake):
    fake.behave(Behaviour(delay_s=1.5))
    calls = Background(service, 1)
    wait_until(lambda: len(fake.receipts()) == 1)

    def is_refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), timeout=5).close()
            return False
        return True

    with ThreadPoolExecutor() as threads:
        exit_code = threads.submit(service.terminate)
        wait_until(is_refused)
        assert service.process.poll() is None, "the call in flight keeps it"
        assert exit_code.result() == 0

    calls.join()
    assert [reply.status for reply in calls.replies] == [200]


def test_calls_in_flight_when_it_is_killed_are_unknown_after_the_next_start(service, fake):
    fake.behave(Behaviour(delay_s=30))
    calls = Background(service, 4)
    wait_until(lambda: len(fake.receipts()) == 4)
    held = service.budget(42)["reserved_nano_usd"]
    service.kill()
    calls.join()
    assert calls.replies == []

    service.start()

    rows = service.rows()
    assert [row["status"] for row in rows] == ["unknown"] * 4
    assert len({row["request_id"] for row in rows}) == 4
    assert sum(row["cost_nano_usd"] for row in rows) == held > 0
    budget = service.budget(42)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (0, held)
    assert service.open_reservations() == []
    verified = service.verify()
    assert verified.returncode == 0, verified.stdout


# What it starts with all the same.


def test_a_provider_that_cannot_be_reached_is_no_reason_not_to_start(tmp_path):
    with Service(tmp_path, config_for(f"http://127.0.0.1:{free_port()}/v1")) as service:
        service.tenant(42)

        reply = service.complete(BODY)

        assert (reply.status, reply.code) == (503, "ai_unavailable")
        assert "retry-after" in reply.headers
        assert service.rows() == []
        assert service.budget(42)["reserved_nano_usd"] == 0
        assert service.verify().returncode == 0


# What it cannot start with.


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Return why a start was refused, once it is known to have been told as it should."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith("tollhouse: error: ") for line in lines), result.stderr
    return result.stderr


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        said = refused(run(tmp_path, "serve", "--port", str(port)))

    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert not (tmp_path / "tollhouse.db").exists()


def test_a_second_server_on_the_same_database_is_refused_and_the_first_goes_on(shared, fake):
    said = refused(run(shared.directory, "serve", **KEYS))

    assert f"in use by process {shared.process.pid}, serving at http://127.0.0.1:{shared.port}" in said
    assert shared.complete(BODY).status == 200


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
            "mine.toml:3: [server] prot: unknown key: expected one of body_timeout_s,",
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
