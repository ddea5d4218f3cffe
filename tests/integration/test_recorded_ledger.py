"""What the providers really sent, replayed to the running service: the ledger says what they reported."""

import json
from collections import Counter

import pytest

from harness.calls import body_for
from harness.recorded import COVERED, EXPECTATIONS, exchanges
from harness.service import limits, model, providers, serving
from tollhouse.testing import FakeProvider

PRICE = "input = 1, output = 5, cached_input = 0.1, cache_write = 1.25, cache_write_1h = 2"


@pytest.fixture(scope="module")
def running(engine, tmp_path_factory):
    with FakeProvider() as fake:
        models = "".join(model(kind, kind, price=PRICE) for kind in COVERED)
        with serving(tmp_path_factory.mktemp("recorded"), providers(fake) + models + limits()) as service:
            yield service, fake
            assert service.findings() == []


@pytest.mark.parametrize("kind", COVERED)
def test_every_recorded_usage_is_in_the_ledger_class_by_class(running, kind):
    service, fake = running
    tenant = service.tenant(budget_usd=100_000)
    body = body_for(tenant, model=kind)
    expected = []
    seen: Counter[int] = Counter()
    for exchange in exchanges(kind):
        seen[exchange["status"]] += 1
        fake.replay(exchange)
        reply = service.complete(body)
        if exchange["status"] == 200:
            text, classes = EXPECTATIONS[kind](exchange["response"])
            assert reply.status == 200, (exchange["id"], reply)
            assert reply.json["content"] == text, exchange["id"]
            expected.append((exchange["id"], {"request_id": reply.json["request_id"], **classes}))
        else:
            assert (reply.status, reply.code) == (422, "ai_provider_rejected"), exchange["id"]
            assert exchange["response"]["error"]["message"] in reply.message, exchange["id"]

    assert seen == COVERED[kind][2]
    rows = service.rows(tenant_id=tenant)
    print(f"{kind}: {len(expected)} recorded answers, {len(rows)} rows")
    assert len(rows) == len(expected)
    for row, (name, says) in zip(rows, expected, strict=True):
        other = json.loads(row["other_usage"] or "{}")
        assert 0 not in other.values(), name
        assert {column: row[column] if column in row else other.get(column, 0) for column in says} == says, name
        assert other.keys() <= says.keys(), name
        assert (row["status"], row["usage_source"]) == ("settled", "reported"), name
        tokens = [value for column, value in says.items() if column.endswith("_tokens")]
        assert row["total_tokens"] == sum(tokens), name
    assert service.budget(tenant)["posted_nano_usd"] == sum(row["cost_nano_usd"] for row in rows)
