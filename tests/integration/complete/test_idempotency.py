"""Idempotency keys: the same key never pays twice, and gets the first answer again, byte for byte."""

import asyncio
import json
from collections import Counter

import pytest

from harness.calls import body_for
from harness.load import all_at_once, post
from harness.service import ADMIN_KEY
from tollhouse.testing import Behaviour


def test_a_repeated_call_gets_the_first_answer_byte_for_byte_and_pays_nothing(service, fake):
    tenant = service.tenant()
    body = body_for(tenant)
    first = service.complete(body, Idempotency_Key="order-1")
    fake.behave(Behaviour(content="Something else."))

    again = service.complete(body, Idempotency_Key="order-1")

    assert first.status == again.status == 200
    assert again.body == first.body
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(fake.receipts()) == 1
    assert len(service.rows(tenant_id=tenant)) == 1


def test_the_same_call_written_differently_is_the_same_call(service, fake):
    body = body_for(service.tenant())
    first = service.complete(body, Idempotency_Key="order-2")
    rewritten = json.dumps(dict(reversed(body.items())), indent=2).encode()
    assert service.complete(rewritten, Idempotency_Key="order-2").body == first.body
    assert len(fake.receipts()) == 1


@pytest.mark.parametrize(
    "change", [{"user_message": "Another."}, {"max_tokens": 401}, {"user_id": 102}, {"temperature": 0.0}]
)
def test_the_same_key_with_another_body_is_422(service, fake, change):
    body = body_for(service.tenant())
    name = f"order-3-{change}"
    assert service.complete(body, Idempotency_Key=name).status == 200
    reply = service.complete({**body, **change}, Idempotency_Key=name)
    assert (reply.status, reply.code) == (422, "ai_idempotency_mismatch")
    assert len(fake.receipts()) == 1


def test_the_same_key_for_another_tenant_is_422_in_a_clients_own_api_too(service, fake):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    key, mine, other = service.new_key()["key"], service.tenant(), service.tenant()

    def ask(tenant):
        whose = {"X_Tenant_Id": str(tenant), "X_Feature_Slug": "f", "Idempotency_Key": "order-3-tenant"}
        return service.request("POST", "/v1/chat/completions", body, key=key, **whose)

    first = ask(mine)
    refused = ask(other)
    assert (refused.status, refused.json["error"]["code"]) == (422, "ai_idempotency_mismatch")
    assert ask(mine).body == first.body
    assert len(fake.receipts()) == 1


def test_another_callers_use_of_the_same_key_is_another_call(service, fake):
    body = body_for(service.tenant())
    keys = [service.new_key()["key"], service.new_key()["key"]]
    ids = [service.complete(body, key=key, Idempotency_Key="shared").json["request_id"] for key in keys]
    assert ids[0] != ids[1]
    assert len(fake.receipts()) == 2


def test_a_call_without_an_answer_leaves_its_key_free(service, fake):
    tenant = service.tenant(budget_usd=0)
    body = body_for(tenant)

    def outcome():
        return service.complete(body, Idempotency_Key="order-4").status

    assert outcome() == 402
    service.tenant(tenant)
    fake.behave(Behaviour(status=503))
    assert outcome() == 503
    fake.behave(Behaviour(status=400))
    assert outcome() == 422
    fake.behave(Behaviour())
    assert outcome() == 200
    assert outcome() == 200
    assert len(service.rows(tenant_id=tenant)) == 1


@pytest.mark.parametrize("behaviour", [Behaviour(hang=True), Behaviour(reset="mid_answer"), Behaviour(garbage=True)])
def test_a_call_that_may_have_been_billed_is_not_made_again_under_its_key(service, fake, behaviour):
    tenant = service.tenant()
    body = body_for(tenant, timeout_s=0.3)
    fake.behave(behaviour)
    assert service.complete(body, Idempotency_Key=f"lost-{tenant}").status in {503, 504}
    fake.behave(Behaviour())

    again = service.complete(body, Idempotency_Key=f"lost-{tenant}")

    assert (again.status, again.code) == (504, "ai_timeout")
    assert "may have been billed" in again.message
    assert again.headers["x-should-retry"] == "false"
    assert "retry-after" not in again.headers
    assert len(fake.receipts()) == 1
    assert service.complete(body, Idempotency_Key=f"new-{tenant}").status == 200


def test_a_kept_answer_is_behind_the_module_gate_and_costs_no_budget(service, fake):
    tenant = service.tenant()
    body = body_for(tenant)
    first = service.complete(body, Idempotency_Key="order-5")
    service.tenant(tenant, is_active=False)
    assert service.complete(body, Idempotency_Key="order-5").code == "ai_module_inactive"
    service.tenant(tenant, budget_usd=0)
    assert service.complete(body, Idempotency_Key="order-5").body == first.body


def test_a_kept_answer_takes_nothing_from_the_rate_limit(tight, tight_fake):
    body = body_for(tight.tenant(), model="m")
    statuses = [tight.complete(body, Idempotency_Key="order-6").status for _ in range(6)]
    assert statuses == [200] * 6
    assert tight.complete(body).status == 200
    assert tight.complete(body).status == 200
    assert tight.complete(body).status == 429


@pytest.mark.parametrize("name", ["", "a" * 256, "a\tb"])
def test_a_key_that_cannot_be_one_is_refused(service, fake, name):
    reply = service.complete(body_for(service.tenant()), Idempotency_Key=name)
    assert (reply.status, reply.code) == (422, "ai_invalid_request")
    assert reply.message == "Idempotency-Key: expected 1 to 255 printable characters"
    assert fake.receipts() == []


def test_the_longest_key_works_and_two_of_them_do_not(service, fake):
    body = body_for(service.tenant())
    first = service.complete(body, Idempotency_Key="é" * 255)
    assert service.complete(body, Idempotency_Key="é" * 255).body == first.body
    twice = post(body, ADMIN_KEY, idempotency_key="a").replace(b"\r\n\r\n", b"\r\nidempotency-key: b\r\n\r\n", 1)
    (outcome,) = asyncio.run(all_at_once(service.port, [twice]))
    assert (outcome.status, outcome.json["message"]) == (422, "Idempotency-Key: expected once")


def test_of_500_calls_at_once_with_one_key_one_is_paid_and_all_others_get_its_answer_or_409(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.1))
    request = post(body_for(tenant), service.new_key()["key"], idempotency_key="one-of-500")

    outcomes = asyncio.run(all_at_once(service.port, [request] * 500))

    counts = Counter(outcome.status for outcome in outcomes)
    print(f"500 calls with one idempotency key: {dict(counts)}, receipts {len(fake.receipts())}")
    assert set(counts) <= {200, 409}
    assert counts[200] >= 1
    assert len({outcome.body for outcome in outcomes if outcome.status == 200}) == 1
    assert len(fake.receipts()) == 1
    assert len(service.rows(tenant_id=tenant)) == 1
    assert service.budget(tenant)["reserved_nano_usd"] == 0


def test_500_calls_spread_over_many_keys_pay_once_for_each(service, fake):
    tenant = service.tenant()
    body, key = body_for(tenant), service.new_key()["key"]
    requests = [post(body, key, idempotency_key=f"spread-{number % 50}") for number in range(500)]

    outcomes = asyncio.run(all_at_once(service.port, requests))

    assert {outcome.status for outcome in outcomes} <= {200, 409}
    assert len(fake.receipts()) == len(service.rows(tenant_id=tenant)) == 50
