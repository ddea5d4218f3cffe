"""A full disk: calls are refused and not dispatched, what was paid for is kept, and all goes on once there is room."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from harness.load import Outcome, all_at_once
from harness.reckoning import number_of, numbered_call, reckon
from harness.service import Service, eventually, limits, model, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

DISK_BYTES = 6 * 1024 * 1024


class Disk:
    """A small disk, which can be filled up to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self) -> None:
        with self._filling.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    def free(self) -> None:
        self._filling.unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk of its own can be mounted by root only")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def service(fake, disk, tmp_path) -> Iterator[Service]:
    config = providers(fake) + model("m", "anthropic") + limits()
    with serving(tmp_path, config, database=disk.path / "tollhouse.db") as service:
        yield service


class Caller:
    """Makes numbered calls, and remembers what became of them."""

    def __init__(self, service: Service) -> None:
        self.tenant, self._key = service.tenant(), service.new_key()["key"]
        self._service = service
        self.outcomes: list[Outcome] = []

    def call(self, count: int) -> list[Outcome]:
        """Make so many new calls at once."""
        start = len(self.outcomes)
        found = self._ask(range(start, start + count))
        self.outcomes += found
        return found

    def repeat(self, numbers: list[int]) -> list[Outcome]:
        """Make calls once more, under the idempotency keys they had."""
        return self._ask(numbers)

    def _ask(self, numbers: range | list[int]) -> list[Outcome]:
        calls = [numbered_call(number, self.tenant, self._key, is_idempotent=True) for number in numbers]
        found = uvloop.run(all_at_once(self._service.port, calls))
        return [Outcome(number, each.status, each.body) for number, each in zip(numbers, found, strict=True)]


def fill_in_the_midst(caller: Caller, fake: FakeProvider, disk: Disk) -> None:
    """Fill the disk while calls are with the provider: when their answers come, nothing can be written any more."""
    fake.behave(Behaviour(delay_s=2.0))
    before = len(fake.receipts())
    thread = threading.Thread(target=caller.call, args=(100,))
    thread.start()
    eventually(lambda: len(fake.receipts()) == before + 100)
    disk.fill()
    thread.join()
    fake.behave(Behaviour())
    while {outcome.status for outcome in caller.call(100)} != {503}:
        assert len(caller.outcomes) < 10_000, "the disk never became full"


def test_a_full_disk_refuses_calls_loses_none_and_is_forgotten_once_there_is_room(service, fake, disk):
    caller = Caller(service)
    assert {outcome.status for outcome in caller.call(50)} == {200}

    fill_in_the_midst(caller, fake, disk)

    assert {outcome.status for outcome in caller.outcomes} == {200, 503}
    refused = [outcome for outcome in caller.outcomes if outcome.status == 503]
    assert {outcome.json["error"] for outcome in refused} == {"ai_unavailable"}
    before = len(fake.receipts())
    assert {outcome.status for outcome in caller.call(100)} == {503}
    assert len(fake.receipts()) == before, "what cannot be entered is not dispatched"
    paid = {number_of(receipt) for receipt in fake.receipts()}
    untold = [outcome.number for outcome in refused if outcome.number in paid]
    assert {service.request("GET", path, key=None).status for path in ("/readyz", "/health")} == {503}
    assert service.request("GET", "/livez", key=None).status == 200
    assert service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] >= len(untold) > 0

    disk.free()
    eventually(lambda: service.request("GET", "/readyz", key=None).status == 200)
    eventually(lambda: service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] == 0)

    print(f"{len(untold)} calls were paid for and could not be told so; their answers were kept")
    again = caller.repeat(untold)
    assert {outcome.status for outcome in again} == {200}
    assert len(fake.receipts()) == before, "a repeated call gets the answer that was paid for"
    assert {outcome.status for outcome in caller.call(50)} == {200}
    found = reckon(service, fake, caller.tenant, caller.outcomes + again)
    found.check()
    assert found.settled == found.receipts == found.answered


def test_a_crash_on_a_full_disk_loses_nothing_either(service, fake, disk):
    caller = Caller(service)
    fill_in_the_midst(caller, fake, disk)
    service.kill()
    disk.free()
    service.start()

    found = reckon(service, fake, caller.tenant, caller.outcomes)
    found.check()
    assert found.unknown > 0, "what could not be entered before the crash is held"
    held = [int(row["user_id"]) for row in service.rows(tenant_id=caller.tenant, status="unknown")]
    receipts = len(fake.receipts())
    assert {outcome.status for outcome in caller.repeat(held)} == {504}
    assert len(fake.receipts()) == receipts, "what may have been billed is not called again"
    assert {outcome.status for outcome in caller.call(20)} == {200}
