"""Recorded requests sent through the service in their own formats, to a server that replays the recorded answers."""

import json
from collections import Counter
from typing import Any

import pytest

from harness.recorded import RECORDED
from harness.recorded_usage import reported
from harness.service import limits, model, providers, serving
from tollhouse.providers.sse import EventParser
from tollhouse.testing import FakeProvider

FILES = {
    "anthropic-messages": "anthropic",
    "openai-chat": "openai",
    "openai-responses": "openai",
    "openai-embeddings": "openai",
    "deepseek": "deepseek",
    "gemini-generate": "gemini",
    "gemini-embed": "gemini",
}
PRICE = "input = 1, output = 5, cached_input = 0.1, cache_write = 1.25, cache_write_1h = 2, search = 10"
# A model that the provider does not know is the operator's mistake: callers are told 503, and a fallback may answer.
_UNKNOWN_MODEL = "the provider does not know the model, which the operator configured"
LIMITS = {
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tool_calls",
    "generationConfig",
    "stream_options",
}
"""What a request that is relayed may differ in: the limit on its output, and being asked for its usage."""
EXCEPTIONS = {
    "cda42346fd21": _UNKNOWN_MODEL,
    "356e02ee8c2e": _UNKNOWN_MODEL,
    "703dcf693561": "its request was not recorded",
    **dict.fromkeys(
        ("d31b287b2627", "d42c03ce4bbc", "15f30ee1d4cd", "0e284c27aa0d", "4a5d5d4eef70", "46f7b2bddf9f"),
        "a background response is answered later, and its cost could not be entered with its answer",
    ),
    **dict.fromkeys(
        ("6781a9841544", "974253a65e01", "d8a25a1d148b"),
        "an advisor is another model with another price, whose tokens are in no sum",
    ),
    **dict.fromkeys(
        ("de33f5c9ed9b", "d12e14f2699c", "79728dd10f6d", "0cace0f9097b", "a1b07467211b"),
        "pictures, file search and code interpreters are billed in units that no usage tells",
    ),
    **dict.fromkeys(
        (
            "0b614bda114a",
            "0e685cce8f34",
            "2378d16aa2ec",
            "488c08ba1d8d",
            "86781055d5ed",
            "a4067154cfbf",
            "a5e533135a8c",
            "ab4b5fddd11e",
            "af0527749aad",
            "ff12f57ec45c",
        ),
        "Anthropic bills the code it runs by the hour of a container, unless it is run for a search",
    ),
}
"""By the id of an exchange, why it cannot pass as it was."""


def exchanges(name: str) -> list[dict[str, Any]]:
    file = RECORDED / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def model_of(exchange: dict[str, Any]) -> str:
    if "/models/" in exchange["path"]:
        return str(exchange["path"].rpartition("/models/")[2].rpartition(":")[0])
    return str(exchange["request"]["model"])


@pytest.fixture(scope="module")
def running(engine, tmp_path_factory):
    named = {(model_of(each), kind) for name, kind in FILES.items() for each in exchanges(name)}
    with FakeProvider() as fake:
        models = "".join(model(name, kind, price=PRICE, context_window=10_000) for name, kind in sorted(named))
        config = (
            providers(fake)
            .replace('kind = "openai"', 'kind = "openai"\nhas_responses = true')
            .replace('kind = "deepseek"', 'kind = "deepseek"\nhas_responses = true')
            + models
            + limits()
        )
        with serving(tmp_path_factory.mktemp("relayed"), config) as service:
            yield service, fake
            assert service.findings() == []


def events(data: bytes) -> list[tuple[str, bytes]]:
    return [(event.name, event.data) for event in EventParser(1 << 24).feed(data)]


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_exchange_passes_as_it_was(running, name):
    service, fake = running
    tenant = service.tenant(budget_usd=1_000_000)
    key = service.new_key(tenants=[tenant], feature_slug="recorded")["key"]
    seen: Counter[str] = Counter()
    failures: list[str] = []
    for exchange in exchanges(name):
        before = len(service.rows(tenant_id=tenant))
        try:
            check(service, fake, key, exchange)
            rows = service.rows(tenant_id=tenant)[before:]
            check_rows(rows, name, exchange)
        except AssertionError as error:
            if exchange["id"] not in EXCEPTIONS:
                failures.append(f"{exchange['id']}: {str(error)[:300]}")
            seen["excepted"] += 1
        else:
            assert exchange["id"] not in EXCEPTIONS, f"{exchange['id']} passes by now"
            seen["passed"] += 1
    print(f"{name}: {dict(seen)}")
    assert not failures, "\n".join(failures)
    assert not service.open_reservations()


def check(service, fake, key, exchange):
    fake.reset()
    fake.replay(exchange)
    query = f"?{exchange['query']}" if exchange["query"] else ""
    path = exchange["path"] if exchange["path"].startswith("/v1") else f"/v1{exchange['path']}"
    reply = service.request("POST", path + query, exchange["request"], key=key)
    recorded = exchange["response"]
    assert reply.status == exchange["status"], reply
    if exchange["stream"]:
        if exchange["request"].get("stream_options", {}).get("include_usage", True):
            assert events(reply.body) == events(recorded.encode())
    else:
        assert json.loads(reply.body) == recorded
    sent = fake.receipts()[-1].request
    asked = exchange["request"]
    if exchange["path"] == "/v1/messages":
        # A search tool without a bound is given the one that was reserved for.
        for tool, was in zip(sent.get("tools", []), asked.get("tools", []), strict=True):
            if str(tool.get("type")).startswith("web_search"):
                tool["max_uses"] = was.get("max_uses")
                was.setdefault("max_uses", None)
    changed = {name for name in {*sent, *asked} if sent.get(name) != asked.get(name)}
    assert changed <= LIMITS


def check_rows(rows, name, exchange):
    expected = reported(name, exchange)
    if exchange["status"] != 200:
        assert rows == []
        return
    (row,) = rows
    assert row["status"] == "settled"
    if expected is None:
        assert row["usage_source"] == "estimated"
        return
    assert row["usage_source"] == "reported"
    assert {column: row[column] for column in expected} == expected
