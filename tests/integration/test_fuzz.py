"""Whatever is sent to any address: never a 500, never silence, and never a reservation left behind."""

import copy
import json
import random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.recorded import RECORDED
from harness.service import ADMIN_KEY, Service, limits, model, providers, serving
from tollhouse.testing import FakeProvider

# What is read and refused is the same on either engine.
pytestmark = pytest.mark.engine("sqlite")

MODELS = ("claude", "gpt", "gem", "ds", "gpt-r")
FILES = {
    "anthropic-messages": "/v1/messages",
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "openai-embeddings": "/v1/embeddings",
    "gemini-generate": "/v1beta/models/{model}:generateContent",
    "gemini-embed": "/v1beta/models/{model}:batchEmbedContents",
}
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**30, 1.5, -0.0, "", "\x00", "\ud7ff", "x" * 300, "data:image/png;base64,AA==",
    "https://example.com/", [], {}, [[]], [{}], {"type": "text"}, {"type": 7}, {"a": {"b": {"c": []}}}, "text",
    "user", "tool",
)  # fmt: skip


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    with FakeProvider() as fake:
        config = providers(fake) + limits()
        config += (
            providers(fake)
            .partition("[providers.deepseek]")[0]
            .replace("providers.", "providers.r-")
            .replace('kind = "openai"', 'kind = "openai"\nhas_responses = true')
        )
        for name, of in zip(MODELS, ("anthropic", "openai", "gemini", "deepseek", "r-openai"), strict=True):
            config += model(name, of, context_window=1000, price="input = 1, output = 5, search = 10")
        with serving(tmp_path_factory.mktemp("fuzz"), config) as service:
            service.tenant(1, budget_usd=1_000_000)
            yield service
            assert service.open_reservations() == []
            assert service.findings() == []
            assert "Traceback" not in service.log()


@pytest.fixture(scope="module")
def key(service):
    return service.new_key(tenants=[1], feature_slug="fuzz")["key"]


def recorded(name: str) -> list[dict[str, Any]]:
    file = RECORDED / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [line["request"] for line in lines if isinstance(line["request"], dict)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value within a request."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += places(child, (*path, key))
    return found


def spoilt(request: dict[str, Any], seed: int) -> Any:
    """Return a request with one to three of its values replaced, taken out, or doubled."""
    chance = random.Random(seed)
    body: Any = copy.deepcopy(request)
    for _ in range(chance.randint(1, 3)):
        known = places(body)
        if not known:
            break
        *path, last = chance.choice(known)
        parent: Any = body
        for step in path:
            parent = parent[step]
        match chance.randrange(4):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
            case _:
                parent[last] = copy.deepcopy(chance.choice(JUNK))
    return body


def send(service: Service, key: str, path: str, body: object) -> None:
    reply = service.request("POST", path, body, key=key)
    assert reply.status != 500, (path, body, reply)
    assert reply.status < 600
    if reply.status >= 400:
        assert isinstance(reply.json, dict | list), reply


SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", FILES)
def test_spoilt_requests_of_real_clients(service, key, name):
    requests = recorded(name)

    @SETTINGS
    @given(st.integers(0, len(requests) - 1), st.integers(0, 2**32), st.sampled_from(MODELS), st.booleans())
    def fuzz(number, seed, target, is_stream):
        body = spoilt(requests[number], seed)
        path = FILES[name].format(model=target)
        if "model" in body and isinstance(body["model"], str):
            body["model"] = target
        if "{model}" in FILES[name] and is_stream and "generate" in path:
            path = path.replace("generateContent", "streamGenerateContent?alt=sse")
        elif is_stream and "embed" not in name:
            body["stream"] = True
        send(service, key, path, body)

    fuzz()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("path", [*FILES.values(), "/ai/complete", "/v1/messages/count_tokens"])
def test_arbitrary_bytes_and_json(service, key, path):
    path = path.format(model="gpt")

    @SETTINGS
    @given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
    def fuzz(raw):
        send(service, key, path, raw)

    fuzz()


def test_every_documented_address_takes_whatever_fits_its_document(service):
    base = f"http://127.0.0.1:{service.port}"
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}

    for operation in schema.get_all_operations():
        found: Any = operation
        strategy = found.ok().as_strategy()

        @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=strategy)
        def one(case):
            if case.path == "/events":
                # A stream would never end, and a long poll only after a while.
                case.query = {**(case.query or {}), "wait_s": 0}
                headers["Accept"] = "application/json"
            response = case.call(headers=headers, timeout=20)
            assert response.status_code != 500, (case.method, case.path, response.text)

        one()
    # What it may have changed, or closed.
    service.tenant(1, budget_usd=1_000_000, is_active=True)
