"""Two running services on each engine for all these tests: one as operators configure it, one with tight limits."""

from collections.abc import Iterator

import pytest

from harness.service import NO_BREAKER, Service, free_port, limits, model, provider, providers, serving
from tollhouse.testing import FakeProvider

HAIKU_PRICE = "input = 0.80, output = 4.00, cached_input = 0.08, cache_write = 1.00, cache_write_1h = 1.60"
TIGHT = """
header_timeout_s = 0.8
body_timeout_s = 0.8
max_header_bytes = 4096
max_body_bytes = 20000
max_connections = 30
"""


def _config(fake: FakeProvider) -> str:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    return "".join([
        providers(fake),
        provider("nowhere", "openai", nowhere),
        model("claude-haiku-4-5", "anthropic", price=HAIKU_PRICE),
        model("gpt-4o-mini", "openai", price="input = 0.15, output = 0.60"),
        model("deepseek-chat", "deepseek", price="input = 0.27, output = 1.10, cached_input = 0.07"),
        model("gemini-2.5-flash", "gemini", price="input = 0.30, output = 2.50, cached_input = 0.03"),
        model("guarded", "anthropic", fallbacks=["unreachable", "gpt-4o-mini", "deepseek-chat"]),
        model("brief", "openai", max_output_tokens=100),
        model("unpriced", "openai", price=None, upstream_model="nobody-has-a-price-for-this"),
        model("unreachable", "nowhere"),
        limits(max_timeout_s=100),
        NO_BREAKER,
    ])  # fmt: skip


@pytest.fixture(scope="session")
def _running(engine, tmp_path_factory) -> Iterator[tuple[Service, FakeProvider]]:
    with FakeProvider() as fake, serving(tmp_path_factory.mktemp("service"), _config(fake)) as service:
        yield service, fake


@pytest.fixture(scope="session")
def _tight(engine, tmp_path_factory) -> Iterator[tuple[Service, FakeProvider]]:
    directory = tmp_path_factory.mktemp("tight")
    with FakeProvider() as fake:
        config = "".join([providers(fake), model("m", "anthropic"), limits(requests_per_minute=1, burst=3)])
        with serving(directory, config, server=TIGHT) as service:
            yield service, fake


@pytest.fixture
def service(_running: tuple[Service, FakeProvider]) -> Service:
    return _running[0]


@pytest.fixture
def fake(_running: tuple[Service, FakeProvider]) -> FakeProvider:
    """The providers of ``service``, without memory of earlier tests."""
    _running[1].reset()
    return _running[1]


@pytest.fixture
def tight(_tight: tuple[Service, FakeProvider]) -> Service:
    """A service with small bounds on requests, and three calls for each tenant."""
    return _tight[0]


@pytest.fixture
def tight_fake(_tight: tuple[Service, FakeProvider]) -> FakeProvider:
    """The provider of ``tight``, without memory of earlier tests."""
    _tight[1].reset()
    return _tight[1]
