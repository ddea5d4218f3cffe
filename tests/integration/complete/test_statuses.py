"""The whole table of outcomes of ``POST /ai/complete``, each reached over HTTP through the real process."""

import threading
import time
from decimal import Decimal

import pytest

from harness.calls import NANO, body_for, ceiling_nano_usd
from harness.service import ADMIN_KEY, PROVIDER_KEY, eventually
from tollhouse.testing import Behaviour

HAIKU_AT_MOST = {"input_usd": "1.60", "output_usd": "4.00"}  # the dearest way to spend an input token is a cache write


def usd(nano_usd):
    return Decimal(nano_usd) / NANO


def set_budget(service, tenant_id, nano_usd):
    raw = f'{{"is_active": true, "budget_usd": {usd(nano_usd):f}}}'.encode()
    assert service.request("PUT", f"/admin/tenants/{tenant_id}", raw).status == 200


# 200.


def test_an_answer_has_the_contracts_fields_its_exact_cost_and_its_row(service, fake):
    fake.behave(
        Behaviour(
            content="Three loaves.",
            input_tokens=312,
            cached_input_tokens=40,
            cache_write_tokens=10,
            cache_write_1h_tokens=5,
            output_tokens=87,
            reasoning_tokens=7,
        )
    )
    tenant = service.tenant()
    key = service.new_key(service="pos")

    reply = service.complete(body_for(tenant), key=key["key"])

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    cost = (312 * Decimal("0.80") + 40 * Decimal("0.08") + 10 + 5 * Decimal("1.60") + (87 + 7) * 4) / 1_000_000
    body = reply.json
    request_id, latency_ms = body.pop("request_id"), body.pop("latency_ms")
    assert body == {
        "content": "Three loaves.",
        "input_tokens": 312,
        "output_tokens": 87,
        "cost_usd": cost,
        "model": "claude-haiku-4-5",
        "provider": "anthropic",
        "cached_input_tokens": 40,
        "cache_write_tokens": 15,
        "reasoning_tokens": 7,
        "total_tokens": 312 + 40 + 10 + 5 + 87 + 7,
        "finish_reason": "stop",
        "fallback_used": False,
        "usage_source": "reported",
    }
    assert request_id == reply.headers["x-request-id"]
    assert request_id.startswith("req_")
    assert type(latency_ms) is int
    (row,) = service.rows(tenant_id=tenant)
    expected = {
        "request_id": request_id,
        "attempt": 1,
        "tenant_id": str(tenant),
        "user_id": "101",
        "feature_slug": "sales-summary",
        "service": "pos",
        "key_id": key["key_id"],
        "model": "claude-haiku-4-5",
        "provider": "anthropic",
        "input_tokens": 312,
        "cached_input_tokens": 40,
        "cache_write_tokens": 10,
        "cache_write_1h_tokens": 5,
        "output_tokens": 87,
        "reasoning_tokens": 7,
        "total_tokens": 461,
        "cost_nano_usd": cost * NANO,
        "status": "settled",
        "usage_source": "reported",
        "latency_ms": latency_ms,
    }
    assert {name: row[name] for name in expected} == expected
    assert service.budget(tenant)["posted_nano_usd"] == cost * NANO
    assert service.budget(tenant)["reserved_nano_usd"] == 0


def test_max_tokens_is_1024_unless_given_and_messages_may_stand_for_the_prompts(service, fake):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "…"},
    ]
    changes = {"max_tokens": ..., "user_message": ..., "messages": turns, "system_prompt": "Be kind."}

    assert service.complete(body_for(service.tenant(), **changes)).status == 200

    sent = fake.receipts()[0].request
    assert sent == {"model": "claude-haiku-4-5", "max_tokens": 1024, "system": "Be kind.", "messages": turns}


def test_a_key_of_one_tenant_and_feature_supplies_both(service, fake):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant], feature_slug="chat")["key"]

    assert service.complete(body_for(..., feature_slug=...), key=key).status == 200
    assert [row["feature_slug"] for row in service.rows(tenant_id=tenant)] == ["chat"]
    assert service.complete(body_for(..., feature_slug=...)).message.startswith("tenant_id: is required")
    assert service.complete(body_for(tenant, feature_slug=...)).message.startswith("feature_slug: is required")


# 401.


def test_calls_without_a_key_in_force_are_401_before_their_body_is_looked_at(service, fake):
    one, other = service.new_key(service="one")["key"], service.new_key(service="other")["key"]
    tenant = service.tenant()
    refused = [None, "th_unknown", one[:-1], one + "x", one[: len(one) // 2] + other[len(other) // 2 :], "é"]

    for key in refused:
        reply = service.complete(b"no JSON", key=key and key.encode().decode("latin-1"))
        assert (reply.status, reply.code) == (401, "ai_unauthorized"), key
        assert reply.headers["www-authenticate"] == "Bearer"
    for header in ["Bearer", "Bearer ", f"Basic {one}", one, f"Token {one}"]:
        reply = service.complete(body_for(tenant), key=None, Authorization=header)
        assert (reply.status, reply.code) == (401, "ai_unauthorized"), header
        assert "Authorization: Bearer <key>" in reply.message
        assert one not in reply.message
    assert fake.receipts() == []
    for key, name in [(one, "one"), (other, "other")]:
        request_id = service.complete(body_for(tenant), key=key).json["request_id"]
        assert [row["service"] for row in service.rows(request_id=request_id)] == [name]


def test_the_scheme_of_the_key_may_be_written_in_any_case(service, fake):
    assert service.complete(body_for(service.tenant()), key=None, authorization=f"bearer {ADMIN_KEY}").status == 200


def test_a_revoked_key_is_out_with_the_next_call(service, fake):
    tenant, key = service.tenant(), service.new_key()
    assert service.complete(body_for(tenant), key=key["key"]).status == 200

    service.admin("DELETE", f"/admin/keys/{key['key_id']}")

    reply = service.complete(body_for(tenant), key=key["key"])
    assert (reply.status, reply.code) == (401, "ai_unauthorized")
    assert len(fake.receipts()) == 1


# 402.


def test_a_budget_takes_a_call_whose_ceiling_fits_exactly_and_refuses_one_of_a_nano_dollar_more(service, fake):
    tenant = service.tenant()
    body = body_for(tenant)
    ceiling = ceiling_nano_usd(body, **HAIKU_AT_MOST)

    set_budget(service, tenant, ceiling - 1)
    refused = service.complete(body)
    month = time.strftime("%Y-%m", time.gmtime())
    assert (refused.status, refused.code) == (402, "ai_budget_exceeded")
    assert refused.message == (
        f"this call could cost up to ${usd(ceiling):f}, but tenant {tenant} has ${usd(ceiling - 1):f} left of its "
        f"${usd(ceiling - 1):f} for {month}; lower max_tokens, or have the budget raised"
    )
    assert "retry-after" not in refused.headers
    assert fake.receipts() == []
    assert service.rows(tenant_id=tenant) == []
    set_budget(service, tenant, ceiling)
    assert service.complete(body).status == 200


@pytest.mark.parametrize("scope", ["user", "feature", "key"])
def test_a_user_a_feature_and_a_key_have_caps_of_their_own(service, fake, scope):
    tenant, key = service.tenant(), service.new_key()
    body = body_for(tenant)
    scope_id = {"user": "101", "feature": "sales-summary", "key": key["key_id"]}[scope]
    path = f"/admin/keys/{scope_id}" if scope == "key" else f"/admin/tenants/{tenant}/budgets/{scope}/{scope_id}"
    service.admin("PUT", path if scope != "key" else f"{path}/budget", {"budget_usd": 0.003})

    statuses = [service.complete(body, key=key["key"]) for _ in range(4)]

    ceiling = ceiling_nano_usd(body, **HAIKU_AT_MOST)
    cost = service.rows(tenant_id=tenant)[0]["cost_nano_usd"]
    fit = (3_000_000 - ceiling) // cost + 1
    assert fit >= 4, "the next call shows that posted cost, not ceilings, uses a cap up"
    assert [reply.status for reply in statuses] == [200] * 4
    dearer = body_for(tenant, max_tokens=800)
    refused = service.complete(dearer, key=key["key"])
    assert (refused.status, refused.code) == (402, "ai_budget_exceeded")
    named = {
        "user": f"user 101 of tenant {tenant}",
        "feature": "feature sales-summary",
        "key": f"service key {scope_id}",
    }
    assert named[scope] in refused.message
    others: dict[str, dict[str, object]] = {"user": {"user_id": 102}, "feature": {"feature_slug": "other"}, "key": {}}
    other_key = ADMIN_KEY if scope == "key" else key["key"]
    assert service.complete({**dearer, **others[scope]}, key=other_key).status == 200
    assert len(fake.receipts()) == 5


# 403.


def test_the_module_gate_says_which_of_its_reasons_it_has(service, fake):
    tenant = service.tenant()

    def outcome(tenant_id=tenant, **changes):
        reply = service.complete(body_for(tenant_id, **changes))
        return reply.status if reply.status == 200 else (reply.status, reply.code)

    assert outcome("never-heard-of") == (403, "ai_module_inactive")
    service.tenant(tenant, is_active=False)
    assert outcome() == (403, "ai_module_inactive")
    service.tenant(tenant, expires_at="2026-01-01T00:00:00Z")
    assert outcome() == (403, "ai_module_expired")
    service.tenant(tenant, expires_at="2126-01-01T00:00:00Z")
    service.admin("PUT", f"/admin/tenants/{tenant}/features/sales-summary", {"is_enabled": False})
    assert outcome() == (403, "ai_feature_disabled")
    assert fake.receipts() == []
    assert outcome(feature_slug="another") == 200
    service.admin("PUT", f"/admin/tenants/{tenant}/features/sales-summary", {"is_enabled": True})
    assert outcome() == 200


def test_a_key_acts_for_its_own_tenants_only_and_a_reader_for_none(service, fake):
    mine, also_mine, theirs = service.tenant(), service.tenant(), service.tenant()
    bound = service.new_key(tenants=[mine, also_mine])["key"]
    reader = service.new_key(role="reader")["key"]

    reply = service.complete(body_for(theirs), key=bound)
    assert (reply.status, reply.code) == (403, "ai_tenant_forbidden")
    assert f"tenant {theirs}" in reply.message
    assert service.complete(body_for(...), key=bound).status == 422
    reply = service.complete(body_for(mine), key=reader)
    assert (reply.status, reply.code) == (403, "ai_forbidden")
    assert "reader" in reply.message
    assert fake.receipts() == []
    assert service.complete(body_for(also_mine), key=bound).status == 200


# 404, 422 of the model, and the provider's own refusal.


def test_a_model_that_is_not_configured_is_404_and_says_which_are(service, fake):
    reply = service.complete(body_for(service.tenant(), model="gpt-9"))
    assert (reply.status, reply.code) == (404, "ai_model_unknown")
    assert "'gpt-9'" in reply.message
    assert "claude-haiku-4-5" in reply.message


def test_a_model_without_a_price_is_refused(service, fake):
    reply = service.complete(body_for(service.tenant(), model="unpriced"))
    assert (reply.status, reply.code) == (422, "ai_model_unpriced")
    assert '[models."unpriced"] price' in reply.message
    assert fake.receipts() == []


def test_more_output_than_the_model_is_configured_for_is_refused(service, fake):
    reply = service.complete(body_for(service.tenant(), model="brief", max_tokens=101))
    assert (reply.status, reply.code) == (422, "ai_invalid_request")
    assert reply.message == "max_tokens: brief is configured for at most 100"
    assert service.complete(body_for(service.tenant(), model="brief", max_tokens=100)).status == 200


def test_what_the_provider_refuses_is_passed_on_with_its_reason_and_without_our_key(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(status=400, reason=f"prompt is too long: 208310 tokens > 200000 maximum ({PROVIDER_KEY})"))

    reply = service.complete(body_for(tenant, model="guarded"))

    assert (reply.status, reply.code) == (422, "ai_provider_rejected")
    assert "prompt is too long: 208310 tokens > 200000 maximum ([key])" in reply.message
    assert len(fake.receipts()) == 1, "neither a second try nor a fallback would fare better"
    assert service.rows(tenant_id=tenant) == []
    assert service.budget(tenant)["reserved_nano_usd"] == 0


# 409.


def test_a_call_whose_idempotency_key_is_being_answered_is_409(service, fake):
    fake.behave(Behaviour(delay_s=1.0))
    body = body_for(service.tenant())
    replies = []
    first = threading.Thread(target=lambda: replies.append(service.complete(body, Idempotency_Key="in-flight")))
    first.start()
    eventually(fake.receipts)

    second = service.complete(body, Idempotency_Key="in-flight")

    assert (second.status, second.code) == (409, "ai_idempotency_in_flight")
    assert second.headers["retry-after"] == "1"
    first.join()
    assert replies[0].status == 200
    assert service.complete(body, Idempotency_Key="in-flight").body == replies[0].body
    assert len(fake.receipts()) == 1


# 413.


def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not(service, fake):
    tenant = service.tenant()
    limit = 10 * 1024 * 1024
    for too_large in [limit + 1, 3 * limit]:
        reply = service.complete(b" " * too_large)
        assert (reply.status, reply.code) == (413, "ai_request_too_large")
        assert f"{limit} bytes" in reply.message
    pieces = (b" " * 65536 for _ in range(200))
    reply = service.request("POST", "/ai/complete", pieces)
    assert (reply.status, reply.code) == (413, "ai_request_too_large")
    assert fake.receipts() == []
    large = body_for(tenant, user_message="x" * (limit - 1000))
    assert service.complete(large).status == 200, "within the limit, it is a call like any other"


# 429.


def test_the_rate_limit_is_each_tenants_own_and_refused_calls_use_nothing_of_it_up(tight, tight_fake):
    tenant, other = tight.tenant(), tight.tenant(budget_usd="0.0001")

    def outcomes(tenant_id, count, **changes):
        body = body_for(tenant_id, **{"model": "m", **changes})
        return [(reply := tight.complete(body)).status for _ in range(count)], reply

    assert outcomes(tenant, 3, model="unknown")[0] == [404] * 3
    assert outcomes(tenant, 3, max_tokens=0)[0] == [422] * 3
    assert outcomes(other, 5)[0] == [402] * 5, "a call refused for its budget gives its place back"
    statuses, last = outcomes(tenant, 5)
    assert statuses == [200, 200, 200, 429, 429]
    assert last.code == "ai_rate_limited"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert f"tenant {tenant}" in last.message
    assert len(tight_fake.receipts()) == 3
    assert tight.budget(tenant)["reserved_nano_usd"] == 0
    tight.tenant(other, budget_usd=5)
    assert outcomes(other, 4)[0] == [200, 200, 200, 429]


# Every answer.


def test_every_answer_carries_a_request_id_of_its_own(service, fake):
    replies = [
        service.complete(body_for(service.tenant())),
        service.complete(b""),
        service.complete(b"", key=None),
        service.request("GET", "/ai/complete"),
        service.request("GET", "/livez", key=None),
        service.request("GET", "/nowhere"),
        service.request("POST", "/ai/complete/", {}),
    ]
    assert [reply.status for reply in replies] == [200, 422, 401, 405, 200, 404, 404]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert all(each.startswith("req_") for each in ids)
    assert len(set(ids)) == len(ids)
