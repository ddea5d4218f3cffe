"""kill -9 of whoever runs jobs, and a service that goes away: no job is lost, none is told or paid twice."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from harness.calls import body_for
from harness.service import NO_BREAKER, Service, TenantId, eventually, limits, model, providers
from harness.workers import Worker, workers
from tollhouse.testing import Behaviour, FakeProvider

JOBS = """[jobs]
api_key = "env:TEST_ADMIN_KEY"
retry_pause_s = 0.05
poll_s = 0.05
lease_s = 1
max_crashes = 20
concurrency = 4
"""


def config(fake: FakeProvider, jobs: str = JOBS) -> str:
    return providers(fake) + model("claude-haiku-4-5", "anthropic") + limits() + NO_BREAKER + jobs


@pytest.fixture
def service(engine: str, fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("jobs"), config(fake)) as service:
        yield service


def submit(service: Service, tenant: TenantId, how_many: int) -> list[str]:
    ids = []
    for number in range(how_many):
        reply = service.request("POST", "/ai/jobs", body_for(tenant, user_message=f"job {number}"))
        assert reply.status == 202, reply
        ids.append(reply.json["job_id"])
    return ids


def states(service: Service) -> Counter[str]:
    return Counter(row["state"] for row in service.query("SELECT state FROM ai_jobs"))


def check(
    service: Service, fake: FakeProvider, tenant: TenantId, ids: list[str], *, crashes_of_service: int = 0
) -> Any:
    """Every job is complete once, paid once, and its provider was asked no more often than it had to be."""
    jobs = service.query("SELECT job_id, state, attempts, crashes, delays, error_message FROM ai_jobs ORDER BY job_id")
    assert [job["job_id"] for job in jobs] == sorted(ids)
    assert Counter(job["state"] for job in jobs) == {"complete": len(ids)}, jobs
    settled = [row for row in service.rows(tenant_id=tenant) if row["status"] == "settled"]
    assert len(settled) == len({row["request_id"] for row in settled}) == len(ids)
    assert len(fake.receipts()) <= len(ids) + crashes_of_service
    assert service.findings() == []
    return jobs


def kill_workers(service: Service, fake: FakeProvider, jobs: int, kills: int) -> None:
    moments = random.Random(7)
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.05))
    ids = submit(service, tenant, jobs)
    done = 0
    with workers(service, 2) as running:
        for number in range(kills):
            time.sleep(moments.uniform(0.0, 0.3))
            victim = running[number % len(running)]
            victim.kill()
            victim.start()
            done = states(service)["complete"]
        eventually(lambda: set(states(service)) == {"complete"}, 120)
        assert [each.terminate() for each in running] == [0, 0]
    found = check(service, fake, tenant, ids)
    crashes = sum(job["crashes"] for job in found)
    assert crashes > 0, "workers were killed with jobs"
    assert done < jobs, "and before all were done"
    print(f"{kills} kills of workers over {jobs} jobs: {crashes} jobs were taken over, none lost, none paid twice")


@pytest.mark.engine("postgresql")
def test_workers_are_killed_and_each_job_is_complete_and_paid_once(service, fake):
    kill_workers(service, fake, jobs=60, kills=4)


@pytest.mark.slow
@pytest.mark.engine("postgresql")
@pytest.mark.timeout(1800)
def test_workers_are_killed_200_times_over_2000_jobs(service, fake):
    kill_workers(service, fake, jobs=2000, kills=200)


@pytest.mark.engine("postgresql")
def test_while_the_service_is_down_jobs_wait_and_use_up_no_tries(service, fake):
    tenant = service.tenant()
    port = service.port
    ids = submit(service, tenant, 30)
    service.terminate()
    with workers(service, 1) as (worker,):
        eventually(lambda: "cannot be reached" in worker.log())
        assert set(states(service)) <= {"queued", "processing"}
        service.environ["TOLLHOUSE_SERVER__PORT"] = str(port)
        service.start()
        eventually(lambda: set(states(service)) == {"complete"}, 60)
        assert worker.terminate() == 0
    assert {job["attempts"] for job in check(service, fake, tenant, ids)} == {1}


@pytest.mark.engine("sqlite")
def test_the_embedded_service_is_killed_with_jobs_under_way(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.05))
    ids = submit(service, tenant, 30)
    for _ in range(2):
        completed = states(service)["complete"]
        eventually(lambda: states(service)["complete"] > completed)  # noqa: B023
        service.kill()
        service.start()
    eventually(lambda: not {"queued", "processing"} & set(states(service)), 60)
    found = service.query("SELECT job_id, state, attempts, error_code FROM ai_jobs")
    # A call that was under way at a kill may have been billed, and is not made a second time without being asked to.
    lost = [job for job in found if job["state"] == "failed"]
    assert {job["error_code"] for job in lost} <= {"ai_timeout"}
    assert len(found) == len(ids)
    rows = Counter(row["status"] for row in service.rows(tenant_id=tenant))
    assert rows["settled"] == len(ids) - len(lost)
    assert rows["unknown"] >= len(lost)
    assert len(fake.receipts()) <= len(ids) + 2 * 4
    assert service.findings() == []


@pytest.mark.engine("postgresql")
def test_a_stopped_worker_leaves_nothing_behind(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.3))
    ids = submit(service, tenant, 8)
    with workers(service, 1) as (first,):
        eventually(lambda: states(service)["processing"] == 4)
        assert first.terminate() == 0
    assert states(service)["processing"] == 0
    with workers(service, 1):
        eventually(lambda: set(states(service)) == {"complete"})
    assert {job["crashes"] for job in check(service, fake, tenant, ids)} == {0}


def test_workers_of_an_embedded_database_are_refused(service):
    """A fixture of either engine: what the command says differs."""
    if service.database_url.startswith("postgresql:"):
        service.environ["TOLLHOUSE_JOBS__URL"] = "http://127.0.0.1:1"
        with workers(service, 1) as (worker,):
            assert isinstance(worker, Worker)
        return
    result = service.run("worker")
    assert result.returncode == 2
    assert "an embedded database has one process" in result.stderr
