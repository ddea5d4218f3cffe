"""Prices that change while the service runs: from the configuration file, within a second, and never by halves."""

from collections.abc import Iterator

import pytest

from harness.calls import body_for
from harness.service import Service, eventually, limits, model, provider, serving
from tollhouse.testing import Behaviour, FakeProvider


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        fake.behave(Behaviour(input_tokens=1000, output_tokens=0))
        yield fake


@pytest.fixture
def service(fake: FakeProvider, tmp_path) -> Iterator[Service]:
    sections = provider("openai", "openai", fake.base_url("openai")), model("m", "openai", price=PRICE)
    with serving(tmp_path, "".join([*sections, limits()])) as service:
        yield service


PRICE = "input = 1.00, output = 1.00"


def change(service: Service, before: str, after: str) -> None:
    text = service.config_file.read_text()
    assert before in text
    service.config_file.write_text(text.replace(before, after))


def test_a_changed_price_holds_for_the_calls_after_it_and_a_mistake_is_not_followed(service):
    tenant = service.tenant()

    def cost() -> str:
        reply = service.complete(body_for(tenant, model="m"))
        assert reply.status == 200, reply
        return str(reply.json["cost_usd"])

    assert cost() == "0.001"
    change(service, PRICE, "input = 3.00, output = 1.00")
    eventually(lambda: cost() == "0.003")
    change(service, "input = 3.00", "input = -3.00")
    eventually(lambda: "the changed configuration is not followed" in service.log())
    assert cost() == "0.003"
    change(service, "input = -3.00", "input = 2.00")
    eventually(lambda: cost() == "0.002")
    versions = {row["price_version"] for row in service.rows(tenant_id=tenant)}
    assert len(versions) == 3
    assert service.findings() == []
