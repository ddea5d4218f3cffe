"""Providers that fail: what the caller is told, what is tried next, and what stays counted against the budget."""

import contextlib
import threading
from decimal import Decimal

import pytest

from harness.calls import body_for, ceiling_nano_usd
from harness.load import post
from harness.service import ADMIN_KEY, PROVIDER_KEY, eventually
from tollhouse.testing import Behaviour

AT_MOST = {"input_usd": "0.80", "output_usd": "4.00"}
HAIKU_AT_MOST = {**AT_MOST, "input_usd": "1.60"}


def switches(service, tenant):
    return service.admin("GET", f"/admin/audit?tenant_id={tenant}&action=provider.switched")["entries"]


def nothing_is_held(service, tenant):
    return service.budget(tenant)["reserved_nano_usd"] == 0 and not service.query(
        "SELECT 1 FROM ai_reservations WHERE tenant_id = ?", str(tenant)
    )


# 503.


def test_an_unreachable_provider_is_503_with_a_retry_after_and_costs_nothing(service, fake):
    tenant = service.tenant()
    reply = service.complete(body_for(tenant, model="unreachable"))
    assert (reply.status, reply.code) == (503, "ai_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.message.startswith("nowhere cannot be reached: no connection to 127.0.0.1 could be made")
    assert service.rows(tenant_id=tenant) == []
    assert nothing_is_held(service, tenant)


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_a_provider_that_cannot_answer_is_tried_once_more_and_then_503(service, fake, status):
    tenant = service.tenant()
    fake.behave(Behaviour(status=status, reason="Upstream says: org-12345 is over its quota."))
    reply = service.complete(body_for(tenant))
    assert (reply.status, reply.code) == (503, "ai_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert "x-should-retry" not in reply.headers
    assert f"HTTP {status}" in reply.message
    assert "org-12345" not in reply.message
    assert len(fake.receipts()) == 2
    assert service.rows(tenant_id=tenant) == []
    assert nothing_is_held(service, tenant)


def test_a_second_try_that_succeeds_is_the_only_one_in_the_ledger(service, fake):
    tenant = service.tenant()
    fake.script([Behaviour(status=529)])
    reply = service.complete(body_for(tenant))
    assert reply.status == 200
    assert reply.json["fallback_used"] is False
    assert [row["attempt"] for row in service.rows(tenant_id=tenant)] == [2]
    assert switches(service, tenant) == []


def test_a_provider_that_asks_for_a_pause_beyond_the_deadline_is_not_waited_for(service, fake):
    fake.behave(Behaviour(status=429, retry_after_s=7))
    reply = service.complete(body_for(service.tenant(), timeout_s=5))
    assert (reply.status, reply.headers["retry-after"]) == (503, "7")
    assert len(fake.receipts()) == 1


def test_a_wrong_provider_key_is_the_operators_fault_and_is_not_shown(service, fake):
    fake.behave(Behaviour(status=401))
    reply = service.complete(body_for(service.tenant()))
    assert (reply.status, reply.code) == (503, "ai_unavailable")
    assert "operator" in reply.message
    assert PROVIDER_KEY[:8] not in reply.message


# Failover.


def test_fallbacks_are_tried_in_order_and_the_switch_is_told_and_audited(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(status=503), model="guarded")
    fake.behave(Behaviour(input_tokens=100, output_tokens=10), model="gpt-4o-mini")

    reply = service.complete(body_for(tenant, model="guarded"))

    assert reply.status == 200
    found = {name: reply.json[name] for name in ("model", "provider", "fallback_used", "cost_usd")}
    cost = (100 * Decimal("0.15") + 10 * Decimal("0.60")) / 1_000_000
    assert found == {"model": "gpt-4o-mini", "provider": "openai", "fallback_used": True, "cost_usd": cost}
    # Twice the primary, then the unreachable one, then the one that answers.
    assert [receipt.model for receipt in fake.receipts()] == ["guarded", "guarded", "gpt-4o-mini"]
    (row,) = service.rows(tenant_id=tenant)
    assert (row["attempt"], row["model"], row["provider"]) == (4, "gpt-4o-mini", "openai")
    assert row["request_id"] == reply.json["request_id"]
    eventually(lambda: len(switches(service, tenant)) == 2)
    newest, older = switches(service, tenant)
    assert newest["target"] == older["target"] == reply.json["request_id"]
    assert newest["before"] == {"provider": "anthropic", "model": "guarded"}
    told = [(each["after"]["provider"], each["after"]["model"], each["after"]["reason"]) for each in (older, newest)]
    assert told == [("nowhere", "unreachable", "http_503"), ("openai", "gpt-4o-mini", "unreachable")]
    assert (newest["after"]["count"], older["after"]["count"]) == (1, 1)
    assert nothing_is_held(service, tenant)


def test_the_ceiling_is_that_of_the_dearest_candidate(service, fake):
    tenant = service.tenant()
    body = body_for(tenant, model="guarded")
    fake.behave(Behaviour(status=503), model="guarded")
    ceiling = ceiling_nano_usd(body, **AT_MOST)
    service.request("PUT", f"/admin/tenants/{tenant}", f'{{"budget_usd": {Decimal(ceiling - 1) / 10**9:f}}}'.encode())
    assert service.complete(body).status == 402
    assert fake.receipts() == []


def test_when_everybody_fails_the_last_failure_is_told_and_nothing_is_held(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(status=500))
    reply = service.complete(body_for(tenant, model="guarded"))
    assert (reply.status, reply.code) == (503, "ai_unavailable")
    assert "deepseek" in reply.message
    assert [each.model for each in fake.receipts()] == ["guarded", "guarded", "gpt-4o-mini", "deepseek-chat"]
    assert service.rows(tenant_id=tenant) == []
    assert nothing_is_held(service, tenant)


# Outcomes that may have been billed.


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (Behaviour(delay_s=2), 504, "ai_timeout"),
        (Behaviour(hang=True), 504, "ai_timeout"),
        (Behaviour(reset="before_answer"), 503, "ai_unavailable"),
        (Behaviour(reset="mid_answer"), 503, "ai_unavailable"),
        (Behaviour(garbage=True), 503, "ai_unavailable"),
        (Behaviour(status=502, bare=True), 503, "ai_unavailable"),
        (Behaviour(status=504, bare=True), 503, "ai_unavailable"),
    ],
    ids=["late", "hangs", "resets", "resets midway", "garbage", "bad gateway", "gateway timeout"],
)
def test_an_unknown_outcome_is_held_at_its_ceiling_and_neither_retried_nor_invoiced(
    service, fake, behaviour, status, code
):
    tenant = service.tenant()
    fake.behave(behaviour)
    body = body_for(tenant, timeout_s=0.4 if status == 504 else 30)

    reply = service.complete(body)

    assert (reply.status, reply.code) == (status, code)
    assert "its ceiling stays counted against the budget" in reply.message
    assert ("retry-after" in reply.headers) == (status == 503)
    assert reply.headers["x-should-retry"] == "false"
    assert len(fake.receipts()) == 1, "a second try could be billed twice"
    ceiling = ceiling_nano_usd(body, **HAIKU_AT_MOST)
    (row,) = service.rows(tenant_id=tenant)
    assert (row["status"], row["usage_source"], row["total_tokens"]) == ("unknown", "none", 0)
    assert (row["cost_nano_usd"], row["request_id"]) == (ceiling, reply.json["request_id"])
    budget = service.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (0, ceiling)
    (held,) = service.query("SELECT state, ceiling_nano_usd FROM ai_reservations WHERE tenant_id = ?", str(tenant))
    assert held == {"state": "unknown", "ceiling_nano_usd": ceiling}
    usage = service.admin("GET", f"/ai/usage?tenant_id={tenant}")
    assert (usage["calls"], usage["cost_usd"]) == (0, 0)


FAILED_BEHIND = {"error": {"code": 502, "message": "Provider returned error"}}


@pytest.mark.parametrize("model", ["gpt-4o-mini", "deepseek-chat"])
def test_an_error_within_a_200_that_reports_usage_is_held_at_its_ceiling(service, fake, model):
    tenant = service.tenant()
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    fake.replay({"status": 200, "response": {**FAILED_BEHIND, "usage": usage}})

    reply = service.complete(body_for(tenant, model=model))

    assert (reply.status, reply.code) == (503, "ai_unavailable")
    assert "its ceiling stays counted against the budget" in reply.message
    assert len(fake.receipts()) == 1, "a second try could be billed twice"
    (row,) = service.rows(tenant_id=tenant)
    assert (row["status"], row["total_tokens"]) == ("unknown", 0)
    budget = service.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (0, row["cost_nano_usd"])
    assert row["cost_nano_usd"] > 0


def test_an_error_within_a_200_without_usage_costs_nothing_and_is_tried_again(service, fake):
    tenant = service.tenant()
    fake.replay({"status": 200, "response": FAILED_BEHIND})

    assert service.complete(body_for(tenant, model="gpt-4o-mini")).status == 200

    assert len(fake.receipts()) == 2
    assert [(row["status"], row["attempt"]) for row in service.rows(tenant_id=tenant)] == [("settled", 2)]
    assert nothing_is_held(service, tenant)


def test_what_is_held_for_unknown_outcomes_is_missing_from_the_budget(service, fake):
    body = body_for(0, timeout_s=0.2)
    ceiling = ceiling_nano_usd(body, **HAIKU_AT_MOST)
    tenant = service.tenant(budget_usd=float(Decimal(2 * ceiling) / 10**9))
    fake.behave(Behaviour(hang=True))

    statuses = [service.complete({**body, "tenant_id": tenant}).status for _ in range(3)]

    assert statuses == [504, 504, 402]
    assert len(fake.receipts()) == 2


def test_clients_that_go_away_at_any_moment_leave_settled_calls_and_no_reservation(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=0.05))

    def call_and_leave(wait_s):
        with service.socket() as connection:
            connection.settimeout(wait_s)
            connection.sendall(post(body_for(tenant), ADMIN_KEY))
            with contextlib.suppress(TimeoutError):
                connection.recv(1)

    threads = [threading.Thread(target=call_and_leave, args=(number * 0.002 + 0.001,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    eventually(lambda: fake.receipts() and len(service.rows(tenant_id=tenant)) == len(fake.receipts()))
    assert {row["status"] for row in service.rows(tenant_id=tenant)} == {"settled"}
    assert nothing_is_held(service, tenant)
