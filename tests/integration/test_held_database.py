"""Another process that holds the database file's write lock, as a backup tool or a shell left open may."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from harness.calls import body_for
from harness.service import Service, eventually, limits, model, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.engine("sqlite")

_OTHER_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
for statement in sys.stdin:
    connection.execute(statement)
    print("done", flush=True)
"""


class OtherProgram:
    """A process of its own that runs statements on the database file."""

    def __init__(self, database: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OTHER_PROGRAM, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def execute(self, statement: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the write lock."""
        self.execute("BEGIN IMMEDIATE")
        yield
        self.execute("ROLLBACK")

    def __enter__(self) -> Self:
        self.execute("SELECT 1")
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    return _fake


@pytest.fixture(scope="module")
def service(_fake, tmp_path_factory) -> Iterator[Service]:
    config = providers(_fake) + model("m", "anthropic") + limits()
    with serving(tmp_path_factory.mktemp("held"), config) as service:
        yield service


@pytest.fixture
def other(service) -> Iterator[OtherProgram]:
    with OtherProgram(service.database) as other:
        yield other


def health(service):
    return service.request("GET", "/health", key=None)


def test_calls_are_refused_and_not_dispatched_while_it_lasts_and_served_afterwards(service, fake, other):
    tenant = service.tenant()
    body = body_for(tenant, model="m")
    assert service.complete(body).status == 200

    with other.holding():
        replies = [service.complete(body, Idempotency_Key="a") for _ in range(3)]
        replies.append(service.request("PUT", f"/admin/tenants/{tenant}", {"name": "renamed"}))
        for reply in replies:
            assert (reply.status, reply.code) == (503, "ai_unavailable")
            assert int(reply.headers["retry-after"]) >= 1
        assert len(fake.receipts()) == 1, "what cannot be entered is not dispatched"
        eventually(lambda: service.request("GET", "/readyz", key=None).status == 503)
        assert service.request("GET", "/livez", key=None).status == 200
        assert service.admin("GET", f"/ai/usage?tenant_id={tenant}")["calls"] == 1, "reading goes on"

    reply = service.complete(body, Idempotency_Key="a")
    assert reply.status == 200
    assert "idempotent-replayed" not in reply.headers
    assert service.admin("PUT", f"/admin/tenants/{tenant}", {"name": "renamed"})["name"] == "renamed"
    eventually(lambda: health(service).json["status"] == "ok")
    assert len(fake.receipts()) == len(service.rows(tenant_id=tenant)) == 2
    assert service.open_reservations() == []
    assert service.findings() == []


def test_what_was_paid_for_when_it_began_is_entered_and_told_once_it_ends(service, fake, other):
    fake.behave(Behaviour(delay_s=2.0))
    tenant = service.tenant()
    body = body_for(tenant, model="m")
    replies = []

    def call():
        replies.append(service.complete(body, Idempotency_Key="b"))

    thread = threading.Thread(target=call)
    thread.start()
    eventually(fake.receipts)
    with other.holding():
        thread.join()
        (refused,) = replies
        assert (refused.status, refused.code) == (503, "ai_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert service.rows(tenant_id=tenant) == []
        assert health(service).json["database"]["unwritten_endings"] == 1

    (row,) = eventually(lambda: service.rows(tenant_id=tenant))
    assert row["status"] == "settled"
    again = service.complete(body, Idempotency_Key="b")
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json["request_id"] == row["request_id"] == refused.json["request_id"]
    assert len(fake.receipts()) == 1
    assert service.open_reservations() == []
    assert service.findings() == []
