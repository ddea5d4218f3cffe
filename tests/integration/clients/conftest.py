"""A running service with models of every vendor, and for each test a tenant that the vendors' own clients call for."""

import warnings
from collections.abc import Iterator

import pytest

from harness.client_calls import Client
from harness.service import NO_BREAKER, Service, limits, model, providers, serving
from tollhouse.testing import FakeProvider

with warnings.catch_warnings():
    # Google's own source is compiled with a warning where no bytecode of it is kept yet.
    warnings.simplefilter("ignore")
    import google.genai  # noqa: F401

PRICE = "input = 1, output = 5, cached_input = 0.1, cache_write = 1.25, cache_write_1h = 2"
MODELS = {
    "gpt-4o-mini": "openai",
    "claude-haiku-4-5": "anthropic",
    "gemini-2.5-flash": "gemini",
    "deepseek-chat": "deepseek",
    "text-embedding-3-small": "openai",
    "gemini-embedding-001": "gemini",
}


@pytest.fixture(scope="session")
def _running(engine, tmp_path_factory) -> Iterator[tuple[Service, FakeProvider]]:
    with FakeProvider() as fake:
        models = "".join(model(name, of, price=PRICE) for name, of in MODELS.items())
        config = providers(fake) + models + limits(requests_per_minute=1, burst=40) + NO_BREAKER
        with serving(tmp_path_factory.mktemp("clients"), config) as service:
            yield service, fake
            assert service.findings() == []
            assert not service.open_reservations()


@pytest.fixture
def client(_running: tuple[Service, FakeProvider]) -> Client:
    """A new tenant's."""
    service, fake = _running
    fake.reset()
    tenant = service.tenant()
    return Client(service, fake, tenant, service.new_key(tenants=[tenant], feature_slug="clients")["key"])
