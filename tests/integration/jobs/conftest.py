"""A service that runs a worker in its own process, on each engine."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.service import NO_BREAKER, Reply, Service, eventually, limits, model, providers
from tollhouse.testing import FakeProvider

JOBS = """[jobs]
in_serve = true
api_key = "env:TEST_ADMIN_KEY"
retry_pause_s = 0.02
poll_s = 0.05
lease_s = 2
try_timeout_s = 5
max_queued_per_tenant = 50
[reports]
max_rows = 50
"""


def config(fake: FakeProvider, jobs: str = JOBS) -> str:
    return providers(fake) + model("claude-haiku-4-5", "anthropic") + limits() + NO_BREAKER + jobs


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    return _fake


@pytest.fixture(scope="module")
def service(engine: str, _fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("jobs"), config(_fake)) as service:
        yield service


def ended(service: Service, job_id: str, key: str | None = None) -> Any:
    """Wait until a job is over, and return its status."""

    def over() -> Any:
        reply: Reply = service.request("GET", f"/ai/jobs/{job_id}", **({} if key is None else {"key": key}))
        assert reply.status == 200, reply
        return reply.json if reply.json["status"] in {"complete", "failed", "cancelled"} else None

    return eventually(over)
