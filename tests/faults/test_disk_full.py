"""A full disk: calls are refused and not dispatched, what was paid for is kept, and all goes on once there is room."""

import time
from collections.abc import Iterator

import pytest

from harness.faults import check_refusals, measure, seconds_until_served
from harness.faults_disk import Caller, Disk, mounted
from harness.postgres import PostgresServer
from harness.reckoning import number_of
from harness.service import Service, eventually, serving
from tollhouse.storage.postgres.control import migrate_database

DISK_BYTES = 6 * 1024 * 1024
SERVERS_DISK_BYTES = 160 * 1024 * 1024


@pytest.fixture
def disk(engine) -> Iterator[Disk]:
    with mounted(DISK_BYTES if engine == "sqlite" else SERVERS_DISK_BYTES) as disk:
        yield disk


@pytest.fixture
def service(disk, config, tmp_path) -> Iterator[Service]:
    with serving(tmp_path, config, database=disk.path / "tollhouse.db") as service:
        yield service


def fill_in_the_midst(caller: Caller, fake, disk: Disk) -> None:
    """Fill the disk while calls are with the provider: when their answers come, nothing can be written any more."""
    with caller.in_the_midst(fake, 100):
        disk.fill()
    caller.call_until_refused()


@pytest.mark.engine("sqlite")
def test_a_full_disk_refuses_calls_loses_none_and_is_forgotten_once_there_is_room(service, fake, disk):
    caller = Caller(service)
    assert {outcome.status for outcome in caller.call(50)} == {200}

    fill_in_the_midst(caller, fake, disk)

    assert {outcome.status for outcome in caller.outcomes} == {200, 503}
    check_refusals(caller.outcomes)
    before = len(fake.receipts())
    assert {outcome.status for outcome in caller.call(100)} == {503}
    assert len(fake.receipts()) == before, "what cannot be entered is not dispatched"
    paid = {number_of(receipt) for receipt in fake.receipts()}
    untold = [outcome.number for outcome in caller.outcomes if outcome.status == 503 and outcome.number in paid]
    assert {service.request("GET", path, key=None).status for path in ("/readyz", "/health")} == {503}
    assert service.request("GET", "/livez", key=None).status == 200
    assert service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] >= len(untold) > 0

    disk.free()
    freed_s = time.monotonic()
    eventually(lambda: service.request("GET", "/readyz", key=None).status == 200)
    eventually(lambda: service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] == 0)
    recovered_s = time.monotonic() - freed_s

    again = caller.repeat(untold)
    assert {outcome.status for outcome in again} == {200}
    assert len(fake.receipts()) == before, "a repeated call gets the answer that was paid for"
    assert {outcome.status for outcome in caller.call(50)} == {200}
    figures = measure(service, fake, caller.tenant, caller.outcomes + again)
    figures.check("disk full", recovered_s=recovered_s, told_later=len(untold))
    assert figures.further["unknown"] == 0


@pytest.mark.engine("sqlite")
def test_a_crash_on_a_full_disk_loses_nothing_either(service, fake, disk):
    caller = Caller(service)
    fill_in_the_midst(caller, fake, disk)
    service.kill()
    disk.free()
    started_s = time.monotonic()
    service.start()
    recovered_s = time.monotonic() - started_s

    held = [int(row["user_id"]) for row in service.rows(tenant_id=caller.tenant, status="unknown")]
    assert held, "what could not be entered before the crash is held"
    measure(service, fake, caller.tenant, caller.outcomes).check("disk full, then kill -9", recovered_s=recovered_s)
    receipts = len(fake.receipts())
    assert {outcome.status for outcome in caller.repeat(held)} == {504}
    assert len(fake.receipts()) == receipts, "what may have been billed is not called again"
    assert {outcome.status for outcome in caller.call(20)} == {200}


@pytest.mark.engine("postgresql")
def test_a_full_disk_of_the_server_refuses_calls_and_loses_none(fake, disk, config, tmp_path):
    settings = {"min_wal_size": "32MB", "max_wal_size": "48MB", "shared_buffers": "16MB"}
    with PostgresServer(disk.path / "server", settings=settings) as server:
        assert server.folder.is_relative_to(disk.path)
        server.create_database("books")
        migrate_database(server.url("books"))
        service = Service(tmp_path, config, url=server.url("books"))
        service.environ["TOLLHOUSE_DATABASE__TIMEOUT_S"] = "3"
        with service:
            caller = Caller(service)
            assert {outcome.status for outcome in caller.call(50)} == {200}

            fill_in_the_midst(caller, fake, disk)

            before = len(fake.receipts())
            assert {outcome.status for outcome in caller.call(100)} == {503}
            assert len(fake.receipts()) == before, "what cannot be entered is not dispatched"
            check_refusals(caller.outcomes)
            assert service.request("GET", "/livez", key=None).status == 200
            went_down = not server.is_running
            disk.free()
            if went_down:
                # As whoever looks after the server would.
                server.start()
            freed_s = time.monotonic()
            recovered_s = seconds_until_served(service, service.tenant(), freed_s)
            eventually(lambda: service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] == 0)
            paid = {number_of(receipt) for receipt in fake.receipts()}
            untold = [each.number for each in caller.outcomes if each.status == 503 and each.number in paid]
            again = caller.repeat(untold) if untold else []
            assert {outcome.status for outcome in again} <= {200}
            eventually(lambda: not service.open_reservations())
            figures = measure(service, fake, caller.tenant, caller.outcomes + again)
            figures.check("disk full", recovered_s=recovered_s, told_later=len(untold), server_went_down=went_down)
