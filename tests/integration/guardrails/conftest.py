"""A running service whose features have different guardrails, and for each test a tenant of its own."""

from collections.abc import Iterator

import pytest

from harness.service import Service, TenantId, limits, model, providers, serving
from tollhouse.testing import FakeProvider

PRICE = "input = 1, output = 5"
MODELS = {
    "gpt-4o-mini": "openai",
    "claude-haiku-4-5": "anthropic",
    "gemini-2.5-flash": "gemini",
    "deepseek-chat": "deepseek",
    "text-embedding-3-small": "openai",
    "gemini-embedding-001": "gemini",
}
GUARDRAILS = """
[guardrails.patterns.staff_number]
pattern = 'STAFF-\\d{6}'

[features.redact.guardrails]
pii = "redact"

[features.keep.guardrails]
pii = "redact"
restore = false

[features.refuse.guardrails]
pii = "block"

[features.flag.guardrails]
pii = "flag"
prompt_injection = "flag"
secrets = "flag"
response_schema = "flag"
markup = "flag"

[features.strict.guardrails]
hidden_characters = "block"
prompt_injection = "block"
input_length = "block"
max_input_chars = 200
response_schema = "block"

[features.clean.guardrails]
hidden_characters = "redact"
normalize = "nfkc"
markup = "redact"
secrets = "redact"

[features.tight.guardrails]
secrets = "block"
"""


@pytest.fixture(scope="session")
def _running(engine, tmp_path_factory) -> Iterator[tuple[Service, FakeProvider]]:
    with FakeProvider() as fake:
        models = "".join(model(name, of, price=PRICE) for name, of in MODELS.items())
        config = providers(fake) + models + limits() + GUARDRAILS
        with serving(tmp_path_factory.mktemp("guardrails"), config) as service:
            yield service, fake
            assert service.findings() == []
            assert not service.open_reservations()


@pytest.fixture
def service(_running: tuple[Service, FakeProvider]) -> Service:
    return _running[0]


@pytest.fixture
def fake(_running: tuple[Service, FakeProvider]) -> FakeProvider:
    _running[1].reset()
    return _running[1]


@pytest.fixture
def tenant(service: Service) -> TenantId:
    return service.tenant()
