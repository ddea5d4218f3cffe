"""A running service, and for each test a new tenant that either client of the library calls for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.client_calls import Client
from harness.python_client import KINDS, Either, Kind, client_of
from harness.service import Service, limits, model, providers, serving
from tollhouse.testing import FakeProvider

BURST = 6


@pytest.fixture(scope="module")
def _running(engine, tmp_path_factory) -> Iterator[tuple[Service, FakeProvider]]:
    with FakeProvider() as fake:
        config = providers(fake) + model("m", "anthropic") + limits(requests_per_minute=600, burst=BURST)
        with serving(tmp_path_factory.mktemp("client"), config) as service:
            yield service, fake
            assert service.findings() == []
            assert not service.open_reservations()


@pytest.fixture
def caller(_running: tuple[Service, FakeProvider]) -> Client:
    """A new tenant, with a key that names tenant and feature by itself."""
    service, fake = _running
    fake.reset()
    tenant = service.tenant()
    return Client(service, fake, tenant, service.new_key(tenants=[tenant], feature_slug="chat")["key"])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def make(kind: Kind, caller: Client) -> Iterator[Callable[..., Either]]:
    """Makes clients for the tenant."""
    made: list[Either] = []

    def make(url: str | None = None, **options: Any) -> Either:
        made.append(client_of(kind, url or caller.url, caller.key, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def api(make: Callable[..., Either]) -> Either:
    return make()
