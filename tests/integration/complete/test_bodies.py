"""Bodies that cannot be meant: each is 422, costs nothing, and is told by field and by what was expected."""

import json

import pytest

from harness.calls import body_for

# What a body may say is decided before the books are asked.
pytestmark = pytest.mark.engine("sqlite")
DEEP = 10_000


def outcome(service, raw):
    reply = service.complete(raw)
    return reply.status, reply.code, reply.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Unknown fields: a typo in max_tokens must not cost money.
        ({"max_token": 5}, "max_token: unknown field; did you mean 'max_tokens'?"),
        ({"tenantId": 1}, "tenantId: unknown field; did you mean 'tenant_id'?"),
        ({"zzz": 1}, "zzz: unknown field; known are model, tenant_id, "),
        # Missing ones.
        ({"model": ...}, "model: is required"),
        ({"tenant_id": ...}, "tenant_id: is required, as this key is not bound to one tenant"),
        ({"feature_slug": ...}, "feature_slug: is required, as this key has no feature of its own"),
        # Types.
        ({"max_tokens": "400"}, "max_tokens: expected `int`, got `str`"),
        ({"max_tokens": 400.0}, "max_tokens: expected `int`, got `float`"),
        ({"max_tokens": True}, "max_tokens: expected `int`, got `bool`"),
        ({"max_tokens": None}, "max_tokens: expected `int`, got `null`"),
        ({"model": 4}, "model: expected `str`, got `int`"),
        ({"user_message": ["Hi"]}, "user_message: expected `str | null`, got `array`"),
        ({"system_prompt": {}}, "system_prompt: expected `str | null`, got `object`"),
        ({"feature_slug": 7}, "feature_slug: expected `str | null`, got `int`"),
        ({"temperature": "warm"}, "temperature: expected `float | null`, got `str`"),
        ({"stop": [1]}, "stop[0]: expected `str`, got `int`"),
        ({"response_schema": "string"}, "response_schema: expected `object | null`, got `str`"),
        ({"stream": "no"}, "stream: expected `bool`, got `str`"),
        ({"timeout_s": "1"}, "timeout_s: expected `float | null`, got `str`"),
        # Ids.
        ({"tenant_id": True}, "tenant_id: expected `int | str | null`, got `bool`"),
        ({"tenant_id": 42.0}, "tenant_id: expected `int | str | null`, got `float`"),
        ({"tenant_id": -1}, "tenant_id: expected `int` >= 0"),
        ({"tenant_id": 2**63}, "tenant_id: "),
        ({"tenant_id": 10**400}, "tenant_id: expected `int` <= 9223372036854775807"),
        ({"tenant_id": ""}, "tenant_id: expected `str` of length >= 1"),
        ({"tenant_id": "a" * 65}, "tenant_id: expected `str` of length <= 64"),
        ({"tenant_id": "a\0b"}, "tenant_id: expected printable characters only"),
        ({"tenant_id": ["42"]}, "tenant_id: expected `int | str | null`, got `array`"),
        ({"user_id": 1.5}, "user_id: expected `int | str | null`, got `float`"),
        ({"user_id": "a\nb"}, "user_id: expected printable characters only"),
        ({"model": "a\0"}, "model: expected printable characters only"),
        ({"feature_slug": "a\u202eb"}, "feature_slug: expected printable characters only"),
        # Bounds.
        ({"max_tokens": 0}, "max_tokens: expected `int` >= 1"),
        ({"max_tokens": -5}, "max_tokens: expected `int` >= 1"),
        ({"max_tokens": 10**8}, "max_tokens: expected `int` <= 10000000"),
        ({"max_tokens": 10**30}, "max_tokens: expected `int` <= 10000000"),
        ({"temperature": 2.1}, "temperature: expected `float` <= 2.0"),
        ({"temperature": -0.1}, "temperature: expected `float` >= 0.0"),
        ({"timeout_s": 0}, "timeout_s: expected `float` > 0.0"),
        ({"timeout_s": 101}, "timeout_s: expected at most 100 seconds"),
        ({"stop": ["x"] * 17}, "stop: expected `array` of length <= 16"),
        ({"model": ""}, "model: expected `str` of length >= 1"),
        ({"model": "m" * 257}, "model: expected `str` of length <= 256"),
        ({"feature_slug": ""}, "feature_slug: expected `str` of length >= 1"),
        ({"feature_slug": "f" * 129}, "feature_slug: expected `str` of length <= 128"),
        # What a call is about.
        ({"user_message": ...}, "user_message: expected either user_message or messages, and not both"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "user_message: expected either user_message or messages"),
        ({"user_message": ..., "messages": []}, "messages: expected `array` of length >= 1"),
        ({"user_message": ..., "messages": [{"role": "user"}]}, "messages[0].content: is required"),
        (
            {"user_message": ..., "messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role: expected one of assistant, system, user",
        ),
        (
            {"user_message": ..., "messages": [{"role": "user", "content": "x", "nam": "y"}]},
            "messages[0].nam: unknown field; known are role, content",
        ),
        (
            {"user_message": ..., "messages": [{"role": "system", "content": "x"}]},
            "messages: expected at least one turn of the user",
        ),
    ],
    ids=lambda value: json.dumps(str(value))[:40] if isinstance(value, dict) else "",
)
def test_a_field_that_cannot_be_meant_is_named_with_what_was_expected(service, fake, changes, message):
    status, code, told = outcome(service, body_for(**{"tenant_id": 42, **changes}))
    assert (status, code) == (422, "ai_invalid_request")
    assert told.startswith(message), told
    assert fake.receipts() == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"{", "the body is not valid JSON"),
        (b"Summarise this", "the body is not valid JSON"),
        (b"null", "the body: expected `object`, got `null`"),
        (b"[]", "the body: expected `object`, got `array`"),
        (b'"text"', "the body: expected `object`, got `str`"),
        (b'{"model": "m"} {}', "the body is not valid JSON: JSON is malformed: trailing characters"),
        (b"{'model': 'm'}", "the body is not valid JSON"),
        (b'{"model": "m\xff\xfe", "user_message": "x"}', "the body is not valid JSON"),
        (b'{"model": "m", "user_message": "\\ud800"}', "the body is not valid JSON"),
        (b'{"model": "m", "max_tokens": NaN}', "the body is not valid JSON"),
        (b'{"model": "m", "temperature": 1e999}', "temperature: number out of range"),
        (b'{"model": "m", "max_tokens": 1' + b"0" * 5000 + b"}", "max_tokens: integer value out of range"),
        (b"\xef\xbb\xbf{}", "the body is not valid JSON"),
        (b"\x00" * 100, "the body is not valid JSON"),
        (b"\x1f\x8b\x08\x00", "the body is not valid JSON"),
        (b"[" * DEEP, "the body: expected `object`, got `array`"),
        (
            b'{"model":"m","response_schema":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
            "the body is nested too deeply",
        ),
        (b'{"model":"m","response_schema":{"a":' + b"[" * DEEP + b"]" * DEEP + b"}}", "the body is nested too deeply"),
        (b'{"model":"m","deep":' + b"[" * DEEP + b"]" * DEEP + b"}", "deep: unknown field"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_what_is_no_call_at_all_is_refused_with_a_sentence(service, fake, raw, message):
    status, code, told = outcome(service, raw)
    assert (status, code) == (422, "ai_invalid_request")
    assert told.startswith(message), told
    assert fake.receipts() == []


def test_a_schema_is_taken_up_to_a_depth_no_real_one_has(service, fake):
    def schema(depth):
        nested: object = {"type": "string"}
        for _ in range(depth):
            nested = {"not": nested}
        return nested

    tenant = service.tenant()
    assert service.complete(body_for(tenant, response_schema=schema(60))).status == 200
    refused = service.complete(body_for(tenant, response_schema=schema(70)))
    assert (refused.status, refused.message) == (422, "response_schema: is nested more than 64 levels deep")
    assert len(fake.receipts()) == 1


def test_of_a_field_given_twice_the_last_counts_for_the_gate_the_charge_and_the_provider_alike(service, fake):
    closed, open_ = service.tenant(is_active=False), service.tenant()

    def raw(first, last):
        rest = '"feature_slug":"f","model":"claude-haiku-4-5","user_message":"Hi","max_tokens":10000000,"max_tokens":7'
        return f'{{"tenant_id":{first},"tenant_id":{last},{rest}}}'.encode()

    assert service.complete(raw(open_, closed)).status == 403
    assert service.complete(raw(closed, open_)).status == 200
    assert [row["tenant_id"] for row in service.rows(feature_slug="f")] == [str(open_)]
    assert fake.receipts()[0].request["max_tokens"] == 7


def test_every_text_there_is_reaches_the_provider_as_it_was_sent(service, fake):
    text = "\0 \t\r\n \x7f é ー 🧾 \u202e \ufeff \\u0000 ' ; -- </script>"
    reply = service.complete(body_for(service.tenant(), user_message=text))
    assert reply.status == 200
    assert fake.receipts()[0].request["messages"] == [{"role": "user", "content": text}]


# Ids.


@pytest.mark.parametrize(
    "tenant_id",
    ["acme", "42-b", "007", "'; DROP TABLE ai_usage_log; --", '" OR 1=1', "%", "_", "a" * 64, "🏪" * 64, "a b", "../x"],
)
def test_ids_are_what_callers_say_they_are(service, fake, tenant_id):
    service.tenant(tenant_id)
    reply = service.complete(body_for(tenant_id, user_id=tenant_id))
    assert reply.status == 200
    (row,) = service.rows(tenant_id=tenant_id)
    assert (row["tenant_id"], row["user_id"]) == (tenant_id, tenant_id)
    assert service.budget(tenant_id)["posted_nano_usd"] == row["cost_nano_usd"]


def test_42_and_the_text_42_are_the_same_tenant_and_user(service, fake):
    tenant = service.tenant()
    key = service.new_key(tenants=[str(tenant)])["key"]

    for tenant_id, user_id in [(tenant, 7), (str(tenant), "7")]:
        assert service.complete(body_for(tenant_id, user_id=user_id), key=key).status == 200

    usage = service.admin("GET", f"/ai/usage?tenant_id={tenant}&group_by=user")
    assert usage["tenant_id"] == tenant
    assert [(user["user_id"], user["calls"]) for user in usage["users"]] == [(7, 2)]


def test_text_that_looks_like_a_picture_costs_what_text_costs_and_does_not_pass_the_cap(service, fake):
    tenant = service.tenant(budget_usd=0.1)
    text = "data:image/png," + "to be read word by word " * 20_000
    body = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": text}]}
    reply = service.request("POST", "/v1/messages", body, X_Tenant_Id=str(tenant), X_Feature_Slug="f")
    assert (reply.status, reply.json["error"]["code"]) == (402, "ai_budget_exceeded")
    assert fake.receipts() == []
