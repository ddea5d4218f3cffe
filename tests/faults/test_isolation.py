"""Every address, for every role, with ids of another tenant: nothing of it is read, changed, charged or called."""

import json
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

import pytest

from harness import engines
from harness.reckoning import numbered_body
from harness.service import Reply, Service, TenantId, eventually
from tollhouse.testing import FakeProvider


class Caller(NamedTuple):
    """Who calls: a key's role, and whether it is bound to a tenant of its own."""

    role: str | None
    is_bound: bool = False
    is_known: bool = True


CALLERS = {
    "service key of another tenant": Caller("service", is_bound=True),
    "service key of all tenants": Caller("service"),
    "reader of another tenant": Caller("reader", is_bound=True),
    "reader of all tenants": Caller("reader"),
    "revoked key": Caller("super-admin", is_known=False),
    "nobody": Caller(None, is_known=False),
}
GROUPS = ("", "&group_by=user", "&group_by=feature", "&group_by=model", "&group_by=service", "&group_by=day")
ADMINISTRATION = (
    ("GET", "/admin/tenants", None),
    ("GET", "/admin/tenants/{id}", None),
    ("PUT", "/admin/tenants/{id}", {"budget_usd": 99999}),
    ("GET", "/admin/tenants/{id}/features", None),
    ("PUT", "/admin/tenants/{id}/features/x", {"is_enabled": False}),
    ("GET", "/admin/tenants/{id}/budgets", None),
    ("PUT", "/admin/tenants/{id}/budgets/user/1", {"budget_usd": 0}),
    ("DELETE", "/admin/tenants/{id}/budgets/user/7", None),
    ("GET", "/admin/tenants/{id}/limits", None),
    ("PUT", "/admin/tenants/{id}/limits", {"concurrent_calls": 1}),
    ("PUT", "/admin/tenants/{id}/limits/user/7", {"concurrent_calls": 1}),
    ("DELETE", "/admin/tenants/{id}/limits", None),
    ("DELETE", "/admin/tenants/{id}/limits/user/7", None),
    ("GET", "/admin/keys", None),
    ("POST", "/admin/keys", {"service": "mine", "role": "super-admin"}),
    ("DELETE", "/admin/keys/{key}", None),
    ("PUT", "/admin/keys/{key}/budget", {"budget_usd": 0}),
    ("DELETE", "/admin/keys/{key}/budget", None),
    ("GET", "/admin/keys/{key}/limits", None),
    ("PUT", "/admin/keys/{key}/limits", {"concurrent_calls": 1}),
    ("DELETE", "/admin/keys/{key}/limits", None),
    ("GET", "/admin/audit", None),
    ("POST", "/admin/reconciliations", {"provider": "anthropic", "buckets": []}),
    ("GET", "/ai/usage/tenants", None),
)


class Victim:
    """A tenant with usage, a cap and a key, and all of its rows."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.id = service.tenant()
        self.key = service.new_key(tenants=[self.id])
        service.admin("PUT", f"/admin/tenants/{self.id}/budgets/user/7", {"budget_usd": 5})
        service.admin("PUT", f"/admin/keys/{self.key['key_id']}/budget", {"budget_usd": 5})
        assert self.call("secret-of-the-victim").status == 200

    def call(self, idempotency_key: str) -> Reply:
        return self._service.complete(numbered_body(7, self.id), key=self.key["key"], Idempotency_Key=idempotency_key)

    def all_that_is_its(self) -> list[object]:
        tables = (
            "ai_usage_log",
            "ai_usage_monthly",
            "ai_budgets",
            "ai_budget_caps",
            "ai_limits",
            "tenant_ai_modules",
            "ai_audit_log",
        )
        # That somebody tried is told where it was tried.
        but = {"ai_audit_log": "AND action <> 'key.used_for_foreign_tenant'"}
        of_tenant = [
            self._service.query(
                f"SELECT * FROM {table} WHERE tenant_id = ? {but.get(table, '')} ORDER BY 1, 2, 3", str(self.id)
            )
            for table in tables
        ]
        keys = self._service.query("SELECT * FROM ai_service_keys WHERE key_id = ?", self.key["key_id"])
        # Its first use is entered within a second of it.
        kept = [{name: value for name, value in key.items() if name != "first_used_at"} for key in keys]
        return [*of_tenant, kept]


@pytest.fixture(scope="module")
def victim(instances) -> Victim:
    return Victim(instances[0])


@pytest.fixture(scope="module")
def keys(instances, victim) -> dict[str, str | None]:
    service = instances[0]
    keys: dict[str, str | None] = {}
    for name, caller in CALLERS.items():
        if caller.role is None:
            keys[name] = None
            continue
        own = {"tenants": [service.tenant()]} if caller.is_bound else {}
        made = service.new_key(role=caller.role, **own)
        keys[name] = made["key"]
        if name == "revoked key":
            service.admin("DELETE", f"/admin/keys/{made['key_id']}")
    known = keys["reader of another tenant"]
    for each in instances:
        eventually(lambda: each.request("GET", "/ai/usage", key=known).status == 200)  # noqa: B023
    return keys


def spellings(tenant: TenantId) -> Iterator[TenantId]:
    """Yield ways to write another tenant's id that a sloppy reader might take for it."""
    yield tenant
    yield str(tenant)


ELSEWHERE = (
    " {id}",
    "{id} ",
    "0{id}",
    "+{id}",
    "{id}.0",
    "{id}\n",
    "{id}%00",
    "{id},",
    "{id}' OR '1'='1",
    "%",
    "{wide}",
)


def test_no_route_lets_any_role_at_another_tenants(instances, victim, keys, fake: FakeProvider):
    before, asked = victim.all_that_is_its(), 0
    for place, (name, caller) in enumerate(CALLERS.items()):
        service, key = instances[place % len(instances)], keys[name]
        for method, path, body in ADMINISTRATION:
            target = path.format(id=victim.id, key=victim.key["key_id"])
            reply = service.request(method, target, body, key=key)
            assert reply.status == (403 if caller.is_known else 401), (name, method, target, reply)
            asked += 1
        for spelled in spellings(victim.id):
            for group in GROUPS:
                reply = service.request("GET", f"/ai/usage?tenant_id={spelled}{group}", key=key)
                may = caller.is_known and not caller.is_bound
                assert reply.status == (200 if may else 403 if caller.is_known else 401), (name, spelled, reply)
                asked += 1
            if not caller.is_known or caller.is_bound or caller.role == "reader":
                reply = service.complete(numbered_body(7, spelled), key=key)
                assert reply.status == (403 if caller.is_known else 401), (name, spelled, reply)
                asked += 1
    assert victim.all_that_is_its() == before
    assert fake.receipts() == []
    print(f"\nFAULT {engines.current()} tenant isolation matrix: asked={asked} leaks=0 changes=0 dispatched=0")


def test_no_client_api_lets_a_bound_key_act_for_another_tenant(instances, victim, keys, fake: FakeProvider):
    before = victim.all_that_is_its()
    key = keys["service key of another tenant"]
    asked = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"):
        reply = instances[0].request("POST", path, asked, key=key, X_Tenant_Id=str(victim.id))
        assert reply.status == 403, (path, reply)
    assert victim.all_that_is_its() == before
    assert fake.receipts() == []


def test_no_spelling_of_an_id_stands_for_another_tenant(instances, victim, keys, fake):
    """Ids are compared as they are; what is no id at all is refused."""
    before = victim.all_that_is_its()
    bound = keys["service key of another tenant"]
    wide = str(victim.id).translate({ord(str(digit)): 0xFF10 + digit for digit in range(10)})
    for place, form in enumerate(ELSEWHERE):
        service = instances[place % len(instances)]
        spelled = form.format(id=victim.id, wide=wide)
        # As somebody who may: nothing of the victim's is found under it.
        found = service.request("GET", f"/ai/usage?tenant_id={quote(spelled)}")
        assert found.status in {200, 422}, (spelled, found)
        if found.status == 200:
            assert found.json["calls"] == 0, (spelled, found)
        assert service.request("GET", f"/ai/usage?tenant_id={quote(spelled)}", key=bound).status in {403, 422}
        assert service.complete(numbered_body(7, spelled)).status in {403, 422}, spelled
        assert service.complete(numbered_body(7, spelled), key=bound).status in {403, 422}, spelled
    assert victim.all_that_is_its() == before
    assert fake.receipts() == []


def test_an_answer_kept_for_one_caller_is_no_answer_for_another(instances, victim, keys, fake):
    """The same body and the same idempotency key, sent by another key: a call of its own."""
    first = victim.call("shared")
    fake.reset()
    for service in instances:
        again = service.complete(
            numbered_body(7, victim.id), key=keys["service key of all tenants"], Idempotency_Key="shared"
        )
        assert again.status == 200
        assert again.json["request_id"] != first.json["request_id"]
    assert len(fake.receipts()) == 1, "its own is replayed at the other processes"


def test_usage_of_all_tenants_tells_a_bound_key_nothing(instances, victim, keys):
    for name in ("service key of another tenant", "reader of another tenant"):
        reply = instances[0].request("GET", "/ai/usage", key=keys[name])
        assert reply.status == 200
        assert json.loads(reply.body)["tenant_id"] != victim.id
