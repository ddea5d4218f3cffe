"""The OpenAPI document: valid, with examples that are true, and good enough to make clients from."""

import importlib
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import openapi_python_client
import pytest
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from harness.client_calls import ANSWER
from harness.service import ADMIN_KEY
from tollhouse.admin import model as admin
from tollhouse.apps import examples
from tollhouse.billing.model import GroupedUsage, TenantSpending, TotalUsage
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.model import Envelope

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture
def document(caller) -> Any:
    return json.loads(caller.service.request("GET", "/openapi.json", key=None).body)


def operations(document) -> dict[str, Any]:
    return {each["operationId"]: each for path in document["paths"].values() for each in path.values()}


def test_the_document_is_valid(document):
    validate(document, cls=OpenAPIV31SpecValidator)


def test_every_operation_has_a_short_name_of_its_own(document):
    names = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(set(names)) == len(names)
    assert all(name.islower() and len(name) < 25 for name in names)
    assert {"complete", "get_usage", "put_tenant", "create_key"} <= set(names)


def test_completion_says_all_that_a_caller_has_to_know(document):
    complete = operations(document)["complete"]
    answers = complete["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(answers["200"]["headers"]) == {"X-Request-Id", "Idempotent-Replayed"}
    assert {status for status, answer in answers.items() if "Retry-After" in answer["headers"]} == {"409", "429", "503"}
    fields = document["components"]["schemas"]["CompleteBody"]
    assert fields["required"] == ["model"]
    assert all(field.get("description") for field in fields["properties"].values())
    for status, answer in answers.items():
        if status not in {"200", "default"}:
            shown = answer["content"]["application/json"]["examples"]
            assert all(f"`{code}`" in answer["description"] for code in shown)
            assert len(shown) == answer["description"].count("`ai_")


SENT = {
    "put_tenant": admin.TenantChanges,
    "put_feature": admin.FeatureChanges,
    "create_key": admin.KeyRequest,
}
# By operation, or by the example where an operation answers in several forms.
ANSWERED: dict[str, Any] = {
    "complete": Envelope,
    "one total": TotalUsage,
    "by user": GroupedUsage,
    "get_spending": list[TenantSpending],
    "get_tenant": admin.Tenant,
    "put_tenant": admin.Tenant,
    "create_key": admin.NewKey,
}


def keys(value: Any) -> Any:
    """What a value has its fields named, at any depth."""
    if isinstance(value, dict):
        return {name: keys(each) for name, each in value.items()}
    return [keys(each) for each in value] if isinstance(value, list) else None


def test_the_examples_are_what_is_sent_and_answered(document):
    shown = operations(document)
    for name, given in examples.SENT.items():
        assert shown[name]["requestBody"]["content"]["application/json"]["examples"].keys() == given.keys()
        for value in given.values():
            if name == "complete":
                decode_body(json.dumps(value).encode())
            else:
                msgspec.convert(value, SENT[name])
    for name, given in examples.ANSWERED.items():
        assert shown[name]["responses"]["200"]["content"]["application/json"]["examples"].keys() == given.keys()
        for title, value in given.items():
            told = msgspec.convert(value, ANSWERED.get(title, ANSWERED.get(name)))
            assert keys(msgspec.to_builtins(told)) == keys(value), name


@pytest.fixture(scope="module")
def generated(_running, tmp_path_factory) -> Iterator[types.ModuleType]:
    """A client that openapi-python-client makes from the document."""
    service, _ = _running
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_bytes(service.request("GET", "/openapi.json", key=None).body)
    config = Config.from_sources(
        # JSON lines are text to it.
        ConfigFile(post_hooks=[], content_type_overrides={"application/x-ndjson": "text/plain"}),
        MetaType.NONE,
        document_source=folder / "openapi.json",
        file_encoding="utf-8",
        overwrite=False,
        output_path=folder / "generated_tollhouse",
    )
    problems = list(openapi_python_client.generate(config=config))
    assert problems == [], [(each.header, each.detail) for each in problems]
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("generated_tollhouse")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith("generated_tollhouse")]:
            del sys.modules[name]


def part(name: str) -> Any:
    return importlib.import_module(f"generated_tollhouse.{name}")


def test_a_generated_client_completes_reads_usage_and_is_told_of_errors(caller, generated):
    caller.told()
    models = part("models")
    complete = part("api.completions.complete")
    wanted = models.CompleteBody(model="m", user_message="When does it open?", user_id=101, max_tokens=100)
    with generated.AuthenticatedClient(base_url=caller.url, token=caller.key) as client:
        first = complete.sync(client=client, body=wanted, idempotency_key="k")
        assert (type(first).__name__, first.content) == ("Envelope", ANSWER)
        assert complete.sync(client=client, body=wanted, idempotency_key="k").request_id == first.request_id
        caller.settled()

        by_user = part("api.usage.get_usage").sync(client=client, group_by=models.GetUsageGroupBy.USER)
        assert [(each.user_id, each.calls, each.cost_usd) for each in by_user.users] == [(101, 1, first.cost_usd)]
        total = part("api.usage.get_usage").sync(client=client)
        assert (type(total).__name__, total.calls) == ("TotalUsage", 1)

        caller.service.tenant(caller.tenant, budget_usd=0)
        refused = complete.sync_detailed(client=client, body=wanted)
        assert (refused.status_code, refused.parsed.error) == (402, "ai_budget_exceeded")


def test_a_generated_client_administers(caller, generated):
    models = part("models")
    with generated.AuthenticatedClient(base_url=caller.url, token=ADMIN_KEY) as client:
        tenant_id = f"{caller.tenant}-b"
        put = part("api.tenants.put_tenant")
        made = put.sync(tenant_id, client=client, body=models.TenantChanges(name="B", is_active=True, budget_usd=2.5))
        assert (made.tenant_id, made.is_active, made.budget_usd, made.expires_at) == (tenant_id, True, 2.5, None)
        key = part("api.keys.create_key").sync(client=client, body=models.KeyRequest(service="b", tenants=[tenant_id]))
        assert key.key
        assert part("api.keys.revoke_key").sync(key.key_id, client=client).revoked_at
        off = models.FeatureChanges(is_enabled=False)
        switched = part("api.tenants.put_feature").sync(tenant_id, "chat", client=client, body=off)
        assert switched.is_enabled is False
        actions = [
            each.action for each in part("api.audit.list_entries").sync(client=client, tenant_id=tenant_id).entries
        ]
        assert len(actions) >= 2
        assert part("api.operations.get_health").sync(client=client).status == "ok"
