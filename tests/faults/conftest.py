"""One set of processes for all tests that do them no harm: four on PostgreSQL, one on SQLite, which takes no more."""

from collections.abc import Iterator

import pytest

from harness import engines
from harness.faults_service import started
from harness.service import NO_BREAKER, NO_SHEDDING, Service, limits, model, providers
from tollhouse.testing import FakeProvider

PROCESSES = {"sqlite": 1, "postgresql": 4}
# Of 10,000 calls at once, each has a connection of its own.
SERVER = "max_connections = 15000"


@pytest.fixture(scope="session")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    """The provider of all services, without memory of earlier tests."""
    _fake.reset()
    return _fake


@pytest.fixture(scope="session")
def config(_fake: FakeProvider) -> str:
    return providers(_fake) + model("m", "anthropic") + limits() + NO_BREAKER + NO_SHEDDING


@pytest.fixture(scope="session")
def instances(engine: engines.Engine, config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """The processes that share one database; to be left as they were."""
    folder = tmp_path_factory.mktemp("shared")
    services = []
    for number in range(PROCESSES[engine]):
        (folder / str(number)).mkdir()
        services.append(Service(folder / str(number), config, server=SERVER, database=folder / "tollhouse.db"))
    with started(services):
        yield services


@pytest.fixture
def ports(instances: list[Service]) -> list[int]:
    return [service.port for service in instances]


@pytest.fixture
def service(instances: list[Service]) -> Service:
    """One of the processes."""
    return instances[0]
