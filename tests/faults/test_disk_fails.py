"""A disk on which fsync fails, and a process killed in the midst of writing a page of its database."""

import contextlib
import os
import threading
import time
from unittest import mock

import pytest

from harness.faults import check_refusals, measure, seconds_until_served
from harness.faults_disk import Caller, failing_disk, fsync_fails
from harness.faults_service import FaultyService
from harness.postgres import PostgresServer
from harness.service import Service, eventually
from tollhouse.storage.postgres.control import migrate_database


@pytest.mark.engine("sqlite")
def test_while_fsync_fails_calls_are_refused_and_what_was_paid_for_is_kept(engine, fake, config, tmp_path):
    service = Service(tmp_path, config)
    service.environ |= failing_disk()
    with service:
        caller = Caller(service)
        assert {outcome.status for outcome in caller.call(50)} == {200}
        with caller.in_the_midst(fake, 50), fsync_fails():
            before = len(fake.receipts())
            assert {outcome.status for outcome in caller.call(100)} == {503}
            assert len(fake.receipts()) == before, "what is not durable is not dispatched"
            # Until the answers have come, and could not be entered either.
            time.sleep(2.3)
        ended_s = time.monotonic()
        eventually(lambda: service.request("GET", "/health", key=None).json["database"]["unwritten_endings"] == 0)
        recovered_s = seconds_until_served(service, service.tenant(), ended_s)
        assert {outcome.status for outcome in caller.call(50)} == {200}
        check_refusals(caller.outcomes)
        assert sum(outcome.status == 503 for outcome in caller.outcomes) == 150
        measure(service, fake, caller.tenant, caller.outcomes).check("fsync fails", recovered_s=recovered_s)
        # What SQLite has written of transactions that it took back must not come back with the next start.
        with fsync_fails():
            assert {outcome.status for outcome in caller.call(100)} == {503}
            service.kill()
        service.start()
        before = len(fake.receipts())
        # They may have been reserved as it looks now; none was dispatched, and at worst they are held.
        measure(service, fake, caller.tenant, caller.outcomes).check("fsync fails, then kill -9")
        assert len(fake.receipts()) == before


@pytest.mark.slow
@pytest.mark.engine("postgresql")
def test_a_server_whose_fsync_fails_ends_and_recovers_and_no_call_is_lost(engine, fake, config, tmp_path):
    """PostgreSQL takes no chances with what may not be on the disk: it ends at once, and starts from its log."""
    with contextlib.ExitStack() as stack:
        with mock.patch.dict(os.environ, failing_disk()):
            server = stack.enter_context(PostgresServer(tmp_path / "server"))
        server.create_database("books")
        migrate_database(server.url("books"))
        service = stack.enter_context(Service(tmp_path, config, url=server.url("books")))
        caller, aside = Caller(service), service.tenant()
        assert {outcome.status for outcome in caller.call(50)} == {200}

        def fail(times: int) -> None:
            # Not for longer: it would fail in its recovery too, and an operator would have to start it.
            with fsync_fails():
                eventually(lambda: server.log().count("PANIC") == times)

        # Once while calls are with their provider, and once while they are being admitted.
        with caller.in_the_midst(fake, 50):
            fail(1)
        seconds_until_served(service, aside)
        thread = threading.Thread(target=caller.call, args=(500,))
        thread.start()
        fail(2)
        ended_s = time.monotonic()
        thread.join()
        recovered_s = seconds_until_served(service, aside, ended_s)
        assert {outcome.status for outcome in caller.call(50)} == {200}

        assert {outcome.status for outcome in caller.outcomes} <= {200, 503}
        check_refusals(caller.outcomes)
        eventually(lambda: not service.open_reservations())
        measure(service, fake, caller.tenant, caller.outcomes).check("fsync fails", recovered_s=recovered_s)


def kill_in_checkpoints(service: FaultyService, fake, writes: list[int]) -> None:
    """Kill the process at a write to the database's own file, which only checkpoints make, half of a page written."""
    caller: Caller | None = None
    killed_in_start = 0
    for nth in writes:
        service.environ |= failing_disk() | {"FAULT_FILE": str(service.database), "FAULT_WRITES": str(nth)}
        try:
            service.start()
        except AssertionError:
            # What the last one left in the log is carried over at the start: that was killed, too.
            assert service.process.returncode == -9
            killed_in_start += 1
            continue
        caller = caller or Caller(service)
        measure(service, fake, caller.tenant, caller.outcomes).check("kill -9 in a checkpoint, next start")
        while {outcome.status for outcome in caller.call(50)} == {200}:
            assert len(caller.outcomes) < 100_000, "there was no checkpoint"
        service.wait_for_death()
    assert caller is not None
    del service.environ["FAULT_FILE"]
    started_s = time.monotonic()
    with service:
        recovered_s = time.monotonic() - started_s
        figures = measure(service, fake, caller.tenant, caller.outcomes)
        figures.check(
            "kill -9 in a checkpoint", recovered_s=recovered_s, kills=len(writes), of_them_in_start=killed_in_start
        )
        assert {outcome.status for outcome in caller.call(50)} == {200}


@pytest.mark.engine("sqlite")
def test_a_kill_in_the_midst_of_a_checkpoint_loses_nothing(engine, fake, config, tmp_path):
    kill_in_checkpoints(FaultyService(tmp_path, config), fake, [30])


@pytest.mark.slow
@pytest.mark.engine("sqlite")
@pytest.mark.timeout(600)
def test_kills_at_many_pages_of_checkpoints_lose_nothing(engine, fake, config, tmp_path):
    kill_in_checkpoints(FaultyService(tmp_path, config), fake, [30, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144])
