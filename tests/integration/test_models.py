"""What a key may call: the page of models, aliases, and the lists of tiers."""

import warnings

import anthropic
import pytest

from harness.service import limits, model, providers, serving
from tollhouse.testing import FakeProvider

with warnings.catch_warnings():
    # Google's own source is compiled with a warning where no bytecode of it is kept yet.
    warnings.simplefilter("ignore")
    from google import genai
    from google.genai.types import HttpOptions

TIERS = '[tiers.starter]\nbudget_usd = 2\nmodels = ["small"]\n'


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    with FakeProvider() as fake:
        config = providers(fake) + limits() + TIERS
        config += model("small", "anthropic", aliases=["gpt-3.5-turbo"], context_window=200_000, max_output_tokens=500)
        config += model("large", "gemini", fallbacks=["small"]) + model("free", "openai", price=None)
        with serving(tmp_path_factory.mktemp("models"), config) as service:
            yield service


def listed(service, key, **headers):
    reply = service.request("GET", "/v1/models", key=key, **headers)
    assert reply.status == 200, reply
    return {each["id"]: each for each in reply.json["data"]}


def chat(service, key, name):
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
    return service.request("POST", "/v1/chat/completions", body, key=key)


def test_the_page_tells_names_bounds_and_prices(service):
    tenant = service.tenant(tier="growth")
    key = service.new_key(tenants=[tenant])["key"]
    models = listed(service, key)
    assert set(models) == {"small", "large", "free", "gpt-3.5-turbo"}
    small = models["small"]
    assert (small["context_window"], small["max_output_tokens"], small["owned_by"]) == (200_000, 500, "anthropic")
    assert {name: float(rate) for name, rate in small["price"].items()} == {
        "input": 0.8,
        "cached_input": 0.8,
        "cache_write": 0.8,
        "cache_write_1h": 0.8,
        "output": 4,
        "reasoning": 4,
    }
    assert models["gpt-3.5-turbo"]["alias_of"] == "small"
    assert models["free"]["price"] is None
    assert "tools" in small["capabilities"]
    assert "documents" not in models["free"]["capabilities"] or models["free"]["owned_by"] == "openai"


def test_a_tier_has_its_models_and_no_others(service):
    starter, growth = service.tenant(tier="starter"), service.tenant(tier="growth")
    key = service.new_key(tenants=[starter], feature_slug="f")["key"]
    assert set(listed(service, key)) == {"small", "gpt-3.5-turbo"}
    assert service.request("GET", "/v1/models/small", key=key).json["id"] == "small"
    refused = service.request("GET", "/v1/models/large", key=key)
    assert (refused.status, refused.json["error"]["code"]) == (403, "ai_model_forbidden")
    unknown = service.request("GET", "/v1/models/huge", key=key)
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "ai_model_unknown")
    # Whose models is told by a header, where the key does not tell.
    assert set(listed(service, service_key(service), X_Tenant_Id=str(starter))) == {"small", "gpt-3.5-turbo"}
    assert len(listed(service, service_key(service), X_Tenant_Id=str(growth))) == 4
    foreign = service.request("GET", "/v1/models", key=key, X_Tenant_Id=str(growth))
    assert (foreign.status, foreign.json["error"]["code"]) == (403, "ai_tenant_forbidden")


def service_key(service):
    return service.new_key()["key"]


def test_calls_are_held_to_the_same_lists(service):
    starter = service.tenant(tier="starter")
    key = service.new_key(tenants=[starter], feature_slug="f")["key"]
    for name in ("small", "gpt-3.5-turbo"):
        assert chat(service, key, name).status == 200
    refused = chat(service, key, "large")
    assert (refused.status, refused.json["error"]["code"]) == (403, "ai_model_forbidden")
    assert {row["model"] for row in service.rows(tenant_id=starter)} == {"small"}
    service.tenant(starter, tier="growth")
    assert chat(service, key, "large").status == 200


def test_it_needs_a_key_wherever_a_client_puts_it(service):
    key = service_key(service)
    assert service.request("GET", "/v1/models", key=None).status == 401
    for name in ("x_api_key", "x_goog_api_key", "api_key"):
        assert service.request("GET", "/v1/models", key=None, **{name: key}).status == 200


def test_counting_tokens_passes_the_gate_and_costs_nothing(service):
    tenant = service.tenant(tier="growth")
    key = service.new_key(tenants=[tenant], feature_slug="f")["key"]
    body = {"messages": [{"role": "user", "content": "hello there"}]}

    def count(name):
        return service.request("POST", "/v1/messages/count_tokens", {"model": name, **body}, key=key)

    assert count("small").json["input_tokens"] > 0
    estimated = count("large").json["input_tokens"]
    assert 10 < estimated < 100
    assert service.rows(tenant_id=tenant) == []
    assert service.budget(tenant)["reserved_nano_usd"] == 0
    service.tenant(tenant, is_active=False)
    refused = count("small")
    assert (refused.status, refused.json["error"]["code"]) == (403, "ai_module_inactive")
    assert not service.open_reservations()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/huge"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/images/generations"),
    ],
)
def test_what_is_not_there_is_told_as_each_vendors_clients_can_read_it(service, method, path):
    key = service_key(service)
    openais = service.request(method, path, {}, key=key)
    assert set(openais.json["error"]) == {"message", "type", "param", "code"}
    anthropics = service.request(method, path, {}, key=key, anthropic_version="2023-06-01")
    assert (anthropics.json["type"], anthropics.json["error"]["code"]) == ("error", openais.json["error"]["code"])
    assert anthropics.headers["request-id"] == anthropics.json["request_id"] == anthropics.headers["x-request-id"]
    assert openais.status == anthropics.status >= 404


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/messages/batches", "anthropic"),
        ("/v1beta/nothing", "google"),
        ("/v1alpha/models/m:countTokens", "google"),
        ("/v1/models/m:countTokens", "google"),
        ("/v1/nothing", "openai"),
        ("/v2/nothing", "own"),
        ("/ai/nothing", "own"),
    ],
)
def test_an_address_tells_whose_clients_ask_there(service, path, shape):
    reply = service.request("POST", path, {}, key=service_key(service))
    assert reply.status in {404, 405}
    match shape:
        case "anthropic":
            assert (reply.json["type"], reply.json["error"]["type"]) == ("error", "not_found_error")
        case "google":
            assert reply.json["error"]["code"] == reply.status
        case "openai":
            assert reply.json["error"]["type"] == "invalid_request_error"
        case _:
            assert reply.code == "ai_not_found"


def test_anthropics_client_reads_bounds_and_capabilities(service):
    client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key=service_key(service))
    small = client.models.retrieve("small")
    assert small in list(client.models.list())
    assert (small.max_input_tokens, small.max_tokens, small.lifecycle) == (200_000, 500, "active")
    assert small.capabilities is not None
    assert small.capabilities.image_input.supported
    assert small.capabilities.thinking.types.adaptive.supported


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_googles_client_reads_names_and_bounds(service, version):
    options = HttpOptions(base_url=f"http://127.0.0.1:{service.port}", api_version=version)
    client = genai.Client(api_key=service_key(service), http_options=options)
    names = {each.name for each in client.models.list()}
    assert names == {"models/small", "models/large", "models/free", "models/gpt-3.5-turbo"}
    small = client.models.get(model="small")
    assert (small.name, small.input_token_limit, small.output_token_limit) == ("models/small", 200_000, 500)
    with pytest.raises(genai.errors.ClientError) as refused:
        client.models.get(model="huge")
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")


def test_a_list_of_models_is_named_to_anthropics_clients_too(service):
    key = service_key(service)
    reply = service.request("GET", "/v1/models", key=key, anthropic_version="2023-06-01")
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert "request-id" not in service.request("GET", "/v1/models", key=key).headers
