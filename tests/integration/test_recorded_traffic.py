"""What the providers really sent, decoded: usage and text compared with what the raw JSON says."""

import json
from collections import Counter
from typing import Any

import pytest

from harness.recorded import COVERED, EXPECTATIONS, exchanges
from tollhouse.providers.base import Rejected, WireResponse
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for
from tollhouse.providers.usage import Usage

# There is no database in it: once is enough.
pytestmark = pytest.mark.engine("sqlite")


def wire(exchange: dict[str, Any]) -> WireResponse:
    headers = {"content-type": exchange["content_type"]}
    return WireResponse(exchange["status"], headers, json.dumps(exchange["response"]).encode())


@pytest.mark.parametrize("kind", COVERED)
def test_every_recorded_answer_has_its_usage_class_by_class_and_its_text(kind):
    adapter = adapter_for(kind, base_url=DEFAULT_BASE_URLS[kind], api_key="k")
    seen: Counter[int] = Counter()
    for exchange in exchanges(kind):
        seen[exchange["status"]] += 1
        if exchange["status"] == 200:
            answer = adapter.decode(wire(exchange))
            text, classes = EXPECTATIONS[kind](exchange["response"])
            assert answer.usage == Usage(**classes), exchange["id"]
            assert answer.content == text, exchange["id"]
            assert answer.finish_reason != "other", exchange["id"]
        else:
            with pytest.raises(Rejected) as refused:
                adapter.decode(wire(exchange))
            assert exchange["response"]["error"]["message"] in str(refused.value), exchange["id"]
    # The counts guard against an expectation that silently covers nothing.
    assert seen == COVERED[kind][2]
