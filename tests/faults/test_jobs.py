"""kill -9 of whoever runs jobs, and a service that goes away: no job is lost, none is told or paid twice."""

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import poison
from harness.postgres import PostgresServer
from harness.reckoning import number_of, numbered_body
from harness.service import NO_BREAKER, Service, TenantId, eventually, free_port, limits, model, providers
from harness.workers import Worker, workers
from tollhouse.storage.postgres.control import migrate_database
from tollhouse.testing import Behaviour, FakeProvider

LEASE_S = 1
JOBS = f"""[jobs]
api_key = "env:TEST_ADMIN_KEY"
retry_pause_s = 0.05
poll_s = 0.05
lease_s = {LEASE_S}
concurrency = 4
"""
MODEL = "claude-haiku-4-5"


def config(fake: FakeProvider, jobs: str = JOBS) -> str:
    return providers(fake) + model(MODEL, "anthropic") + limits() + NO_BREAKER + jobs


@pytest.fixture
def service(engine: str, fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("jobs"), config(fake)) as service:
        yield service


def submit(service: Service, tenant: TenantId, how_many: int, first: int = 0) -> list[str]:
    """Queue jobs, each of a user of its own, whose id is the job's number."""
    ids = []
    for number in range(first, first + how_many):
        reply = service.request("POST", "/ai/jobs", numbered_body(number, tenant, model=MODEL))
        assert reply.status == 202, reply
        ids.append(reply.json["job_id"])
    return ids


def states(service: Service) -> Counter[str]:
    found = service.query("SELECT state, count(*) AS jobs FROM ai_jobs GROUP BY state")
    return Counter({row["state"]: row["jobs"] for row in found})


def all_complete(service: Service, timeout_s: float = 60) -> None:
    eventually(lambda: set(states(service)) == {"complete"}, timeout_s)


def check(service: Service, fake: FakeProvider, tenant: TenantId, ids: list[str]) -> list[dict[str, Any]]:
    """Every job is complete once, told once, paid once, and its provider was asked no more often than it had to be."""
    jobs = service.query(
        "SELECT job_id, user_id, state, attempts, crashes, interruptions, delays, generation FROM ai_jobs "
        "WHERE sealed_result IS NOT NULL ORDER BY job_id"
    )
    assert [job["job_id"] for job in jobs] == sorted(ids), "lost"
    assert {job["state"] for job in jobs} == {"complete"}
    told = service.query("SELECT subject FROM ai_events WHERE type = 'ai.job.completed' ORDER BY subject")
    assert [event["subject"] for event in told] == sorted(ids), "completed twice, or not told"
    rows = service.rows(tenant_id=tenant)
    paid = Counter(int(row["user_id"]) for row in rows if row["status"] == "settled")
    assert set(paid.values()) == {1}, "paid twice"
    assert len(paid) == len(ids)
    # A call of an unknown outcome was under way when the service itself was killed.
    cut_off = Counter(int(row["user_id"]) for row in rows if row["status"] == "unknown")
    asked = Counter(number_of(receipt) for receipt in fake.receipts())
    assert all(asked[number] <= 1 + cut_off[number] for number in paid)
    assert all(cut_off[int(job["user_id"])] <= job["generation"] for job in jobs)
    assert service.findings() == []
    return jobs


def figures(what: str, service: Service, fake: FakeProvider, tenant: TenantId, jobs: list[dict[str, Any]]) -> None:
    """Print what was counted, once it has been checked."""
    asked = Counter(number_of(receipt) for receipt in fake.receipts())
    rows = Counter(row["status"] for row in service.rows(tenant_id=tenant))
    taken_over = sum(job["crashes"] + job["interruptions"] for job in jobs)
    engine = service.database_url.partition(":")[0]
    print(
        f"JOBS {engine} {what}: jobs={len(jobs)} lost=0 completed_twice=0 paid={rows['settled']} "
        f"unknown={rows['unknown']} receipts={sum(asked.values())} most_receipts_of_a_job={max(asked.values())} "
        f"taken_over={taken_over} most_attempts={max(job['attempts'] for job in jobs)}"
    )


def kill_workers(service: Service, fake: FakeProvider, how_many: int, kills: int, delay_s: float) -> None:
    """Kill whoever runs jobs again and again: workers, and on SQLite the service, which is the only one."""
    moments = random.Random(7)
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=delay_s))
    is_embedded = not service.database_url.startswith("postgresql:")
    ids = submit(service, tenant, how_many)
    with contextlib.nullcontext([service]) if is_embedded else workers(service, 2) as running:
        for number in range(kills):
            # Spread over all the jobs, however fast they go; at any moment of theirs.
            wanted = 0.9 * how_many * number / kills
            eventually(lambda: states(service)["complete"] >= wanted, 120)  # noqa: B023
            time.sleep(moments.uniform(0.0, 2 * delay_s))
            victim = running[number % len(running)]
            victim.kill()
            victim.start()
        done = states(service)["complete"]
        all_complete(service, 300)
        assert is_embedded or [each.terminate() for each in running] == [0, 0]
    found = check(service, fake, tenant, ids)
    assert sum(job["crashes"] + job["interruptions"] for job in found) > 0, "they were killed with jobs"
    assert done < how_many, "and before all were done"
    figures(f"{kills} kills", service, fake, tenant, found)


def test_workers_are_killed_and_each_job_is_complete_and_paid_once(service, fake):
    kill_workers(service, fake, how_many=30, kills=2, delay_s=0.2)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_workers_are_killed_200_times_over_2000_jobs(service, fake):
    kill_workers(service, fake, how_many=2000, kills=200, delay_s=0.1)


def test_a_job_that_kills_its_worker_is_set_aside_and_those_beside_it_are_not(engine, fake, tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("poison"), config(fake))
    service.program = [Path(poison.__path__[0]) / "sitecustomize.py"]
    is_embedded = engine == "sqlite"
    with service:
        tenant = service.tenant()
        fake.behave(Behaviour(delay_s=0.3))
        with contextlib.nullcontext([service]) if is_embedded else workers(service, 1) as (victim,):
            poisoned = numbered_body(99, tenant, model=MODEL, system_prompt="poison")
            ids = submit(service, tenant, 3)
            # Who answers may be killed before it does.
            with contextlib.suppress(OSError, http.client.HTTPException):
                service.request("POST", "/ai/jobs", poisoned)
            eventually(victim.has_died)
            victim.start()
            ids += submit(service, tenant, 2, first=3)
            eventually(lambda: states(service) == {"complete": 5, "failed": 1}, 60)
        (dead,) = service.admin("GET", "/admin/jobs?status=failed")["jobs"]
        assert (dead["user_id"], dead["error"], dead["crashes"]) == (99, "ai_job_crashed", 3)
        check(service, fake, tenant, ids)
        assert 99 not in {number_of(receipt) for receipt in fake.receipts()}


class Way:
    """A way to a service, which is closed at first."""

    def __init__(self) -> None:
        self.port = free_port()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def open(self, target: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, target)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, target: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(("127.0.0.1", target))
                self._sockets.append(far)
                self._start(self._pass_on, near, far)
                self._start(self._pass_on, far, near)

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(65_536):
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)


def outage(fake: FakeProvider, folder: Path, how_many: int, outage_s: float) -> None:
    """Have jobs queued while the service cannot be reached by whoever runs them."""
    service = Service(folder, config(fake))
    way = Way()
    service.environ["TOLLHOUSE_JOBS__URL"] = f"http://127.0.0.1:{way.port}"
    with service:
        tenant = service.tenant()
        fake.behave(Behaviour(delay_s=0.01))
        is_embedded = not service.database_url.startswith("postgresql:")
        with contextlib.nullcontext() if is_embedded else workers(service, 2, way.port):
            ids = submit(service, tenant, how_many)
            time.sleep(outage_s)
            assert fake.receipts() == []
            assert set(states(service)) <= {"queued", "processing"}
            with contextlib.closing(way):
                way.open(service.port)
                all_complete(service, 120)
        found = check(service, fake, tenant, ids)
        assert {job["attempts"] for job in found} == {1}, "no try was used up"
        figures(f"{outage_s} s without the service", service, fake, tenant, found)


def test_while_the_service_is_down_jobs_wait_and_use_up_no_tries(engine, fake, tmp_path_factory):
    outage(fake, tmp_path_factory.mktemp("outage"), 30, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_service_is_down_for_60_s_with_500_jobs_queued(engine, fake, tmp_path_factory):
    outage(fake, tmp_path_factory.mktemp("outage"), 500, 60.0)


@pytest.mark.engine("postgresql")
def test_the_service_is_stopped_with_jobs_queued_and_comes_back(service, fake):
    tenant = service.tenant()
    ids = submit(service, tenant, 30)
    port = service.port
    service.terminate()
    with workers(service, 1) as (worker,):
        eventually(lambda: "cannot be reached" in worker.log())
        service.environ["TOLLHOUSE_SERVER__PORT"] = str(port)
        service.start()
        all_complete(service)
        assert worker.terminate() == 0
    assert {job["attempts"] for job in check(service, fake, tenant, ids)} == {1}


def restarts(fake: FakeProvider, folder: Path, how_many: int, times: int) -> None:
    """Restart PostgreSQL in the midst of running jobs."""
    with PostgresServer(folder) as server:
        server.create_database("books")
        migrate_database(server.url("books"))
        service = Service(folder, config(fake, JOBS.replace("lease_s = 1", "lease_s = 5")), url=server.url("books"))
        with service, workers(service, 2):
            tenant = service.tenant()
            fake.behave(Behaviour(delay_s=0.1))
            ids = submit(service, tenant, how_many)
            for number in range(times):
                done = states(service)["complete"]
                eventually(lambda: states(service)["complete"] > done)  # noqa: B023
                server.restart("immediate" if number % 2 else "fast")
            done = states(service)["complete"]
            all_complete(service, 120)
            found = check(service, fake, tenant, ids)
        assert done < how_many, "they were under way at the last restart too"
        figures(f"{times} restarts of the server", service, fake, tenant, found)


@pytest.mark.engine("postgresql")
def test_postgresql_is_restarted_in_the_midst_of_jobs(engine, fake, tmp_path_factory):
    restarts(fake, tmp_path_factory.mktemp("restarts"), 50, 1)


@pytest.mark.slow
@pytest.mark.engine("postgresql")
@pytest.mark.timeout(600)
def test_postgresql_is_restarted_ten_times_in_the_midst_of_jobs(engine, fake, tmp_path_factory):
    restarts(fake, tmp_path_factory.mktemp("restarts"), 1000, 10)


@pytest.mark.engine("postgresql")
def test_a_stopped_worker_leaves_nothing_behind(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.3))
    ids = submit(service, tenant, 8)
    with workers(service, 1) as (first,):
        eventually(lambda: states(service)["processing"] == 4)
        assert first.terminate() == 0
    assert states(service)["processing"] == 0
    assert service.query("SELECT worker FROM ai_job_workers") == []
    with workers(service, 1):
        all_complete(service)
    assert {job["crashes"] + job["interruptions"] for job in check(service, fake, tenant, ids)} == {0}


def test_workers_of_an_embedded_database_are_refused(service):
    """A fixture of either engine: what the command says differs."""
    if service.database_url.startswith("postgresql:"):
        with workers(service, 1) as (worker,):
            assert isinstance(worker, Worker)
        return
    result = service.run("worker")
    assert result.returncode == 2
    assert "an embedded database has one process" in result.stderr
