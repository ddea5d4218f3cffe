"""``tollhouse serve`` as a process: how it starts, what it starts with all the same, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.engines import Engine
from harness.service import Reply, Service, eventually, free_port, model, provider
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
def shared(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, provider_of_all: FakeProvider
) -> Iterator[Service]:
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


@pytest.mark.engine("sqlite")
def test_the_lock_file_holds_a_working_super_admin_key_for_its_owner_alone(shared):
    lock = shared.database.with_name("tollhouse.db.lock")

    owner = json.loads(lock.read_text())

    assert (owner["pid"], owner["url"]) == (shared.process.pid, f"http://127.0.0.1:{shared.port}")
    assert lock.stat().st_mode & 0o777 == 0o600
    assert shared.request("GET", "/admin/tenants", key=owner["operator_token"]).status == 200


@pytest.mark.engine("sqlite")
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
    eventually(lambda: len(fake.receipts()) == 3)

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
    eventually(lambda: len(fake.receipts()) == 1)

    def is_refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), timeout=5).close()
            return False
        return True

    with ThreadPoolExecutor() as threads:
        exit_code = threads.submit(service.terminate)
        eventually(is_refused)
        assert service.process.poll() is None, "the call in flight keeps it"
        assert exit_code.result() == 0

    calls.join()
    assert [reply.status for reply in calls.replies] == [200]


def test_calls_in_flight_when_it_is_killed_are_unknown_after_the_next_start(service, fake, engine):
    fake.behave(Behaviour(delay_s=30))
    calls = Background(service, 4)
    eventually(lambda: len(fake.receipts()) == 4)
    held = service.budget(42)["reserved_nano_usd"]
    service.kill()
    calls.join()
    assert calls.replies == []

    service.start()

    # An embedded database is recovered before it is served from; another's may belong to instances that live.
    if engine == "postgresql":
        eventually(lambda: len(service.rows()) == 4)
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
