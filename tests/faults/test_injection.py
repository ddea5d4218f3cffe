"""SQL metacharacters in every id, games with the Host header, and keys that nearly are another."""

import socket

import pytest

from harness import engines
from harness.faults import measure
from harness.load import Outcome
from harness.reckoning import numbered_body
from harness.service import ADMIN_KEY, eventually
from harness.wire import Wire, request

NASTY = (
    "'",
    "''; DROP TABLE ai_usage_log; --",
    "' OR '1'='1",
    '"; DELETE FROM ai_budgets; --',
    "1; UPDATE ai_budgets SET cap_nano_usd = 999999999999",
    "') ; COMMIT; --",
    "\\",
    "\\'",
    "%",
    "_",
    "%s %(x)s :name $1 ?",
    "{42,43}",
    '{"a",NULL}',
    "NULL",
    "/* */",
    "$$ $a$",
    "E'\\x00'",
    "😀é\u0301",
    "\u202e42",
    "a\tb",
    "a\nb",
    "a\r\nX-Injected: 1",
    "\x01",
    "\x7f",
    "\u2028",
)
# What PostgreSQL's text cannot hold, and what is no text at all.
IMPOSSIBLE = ("\x00", "a\x00b", "\ud800", "a\udfff")


def test_what_looks_like_sql_is_an_id_like_any_other(service, instances, fake):
    """Charged to the very tenant, user and feature that were named, or refused as no id; never anybody else's."""
    bystander = service.tenant()
    before = service.budget(bystander)
    outcomes, taken = [], 0
    for number, text in enumerate(NASTY):
        at = instances[number % len(instances)]
        name = f"{text} {number}"
        reply = service.request("PUT", f"/admin/tenants/{quoted(name)}", {"is_active": True, "budget_usd": 1})
        assert reply.status in {200, 422}, (text, reply)
        if reply.status == 200:
            assert reply.json["tenant_id"] == name
            body = numbered_body(number, name, feature_slug=name)
            reply = at.complete(body, Idempotency_Key=f"k{as_header(text)}")
            assert reply.status == 200, (text, reply)
            (row,) = service.rows(tenant_id=name)
            assert (row["tenant_id"], row["feature_slug"]) == (name, name)
            usage = at.request("GET", f"/ai/usage?tenant_id={quoted(name)}&group_by=feature")
            assert [each["feature_slug"] for each in usage.json["features"]] == [name]
            taken += 1
        # As a user, beside an ordinary tenant.
        reply = at.complete({**numbered_body(number, bystander), "user_id": name})
        assert reply.status in {200, 422}, (text, reply)
        if reply.status == 200:
            assert len(service.rows(tenant_id=bystander, user_id=name)) == 1
            outcomes.append(Outcome(number, reply.status, reply.body))
    assert taken > len(NASTY) // 2
    after = service.budget(bystander)
    spent = sum(row["cost_nano_usd"] for row in service.rows(tenant_id=bystander))
    assert after["posted_nano_usd"] - before["posted_nano_usd"] == spent
    assert after["cap_nano_usd"] == before["cap_nano_usd"]
    assert service.findings() == []
    print(f"\nFAULT {engines.current()} SQL metacharacters: texts={len(NASTY)} taken_as_ids={taken} misdirected=0")


@pytest.mark.parametrize("place", ["tenant_id", "user_id", "feature_slug", "model", "user_message", "idempotency"])
def test_what_no_database_can_hold_is_refused_and_harms_nobody(service, instances, fake, place):
    """A call that a database cannot hold must not be a defect, nor take others of its batch with it."""
    tenant = service.tenant()
    for number, text in enumerate(IMPOSSIBLE):
        at = instances[number % len(instances)]
        body = numbered_body(number, tenant)
        headers = {}
        if place == "idempotency":
            if not text.isascii():
                continue
            headers = {"Idempotency_Key": text.replace("\x00", "\x0b")}
        else:
            body[place] = text
        reply = at.complete(body, **headers)
        if place == "user_message" and "\x00" in text:
            assert reply.status == 200, (text, reply)
        else:
            assert reply.status in {400, 404, 422}, (text, reply)
    assert service.open_reservations() == []
    assert service.findings() == []


def as_header(text: str) -> str:
    """Return what of a text a header can hold."""
    return "".join(each for each in text if each.isprintable() and ord(each) < 256)


def quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


HOSTS = (
    ("host: evil.example",),
    ("host: 127.0.0.1:1",),
    ("host: localhost",),
    ("host: api.anthropic.com",),
    (
        "host: tollhouse",
        "x-forwarded-host: evil.example",
        "forwarded: host=evil.example",
        "x-original-url: /admin/keys",
    ),
    ("host: tollhouse", "x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "x-rewrite-url: /admin/keys"),
)


def test_whatever_host_a_caller_names_nothing_changes(service, fake):
    """No answer echoes it, nothing is routed or trusted by it, and the provider never hears of it."""
    tenant = service.tenant()
    for number, lines in enumerate(HOSTS):
        raw = request(tenant, *lines[1:], user_id=number, user_message=f"Call number {number}.")
        raw = raw.replace(b"host: tollhouse", lines[0].encode(), 1)
        with Wire(service) as wire:
            reply = wire.send(raw).reply()
        assert reply.status == 200, (lines, reply)
        shown = reply.body + repr(reply.headers).encode()
        assert b"evil" not in shown
        # Without a key, none of it is a key.
        with Wire(service) as wire:
            keyless = "\r\n".join(["GET /admin/keys HTTP/1.1", *lines, "", ""])
            assert wire.send(keyless.encode()).reply().status == 401
    for raw in (
        request(tenant).replace(b"host: tollhouse\r\n", b"", 1),
        request(tenant).replace(b"host: tollhouse\r\n", b"host: a\r\nhost: b\r\n", 1),
        request(tenant).replace(b"host: tollhouse\r\n", b"host: a b\r\n", 1),
    ):
        with Wire(service) as wire:
            assert wire.send(raw).reply().status in {200, 400}
    assert all(b"evil" not in bytes(receipt.raw_request) for receipt in fake.receipts())


def test_no_field_and_no_header_leads_the_service_anywhere_else(service, fake):
    """Where providers are reached is the operator's to say; other gateways have taken an address from the body."""
    tenant = service.tenant()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        fields = dict.fromkeys(("base_url", "api_base", "api_url", "endpoint", "custom_llm_provider", "proxy"), url)
        headers = dict.fromkeys(("X_Base_Url", "X_Api_Base", "X_Portkey_Custom_Host", "X_Forwarded_Host", "Proxy"), url)
        for name in fields:
            refusal = service.complete(numbered_body(7, tenant, **{name: url}))
            assert (refusal.status, name in refusal.json["message"]) == (422, True), refusal
        assert service.complete(numbered_body(7, tenant), **headers).status == 200
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"):
            asked = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
            reply = service.request("POST", path, {**asked, **fields}, X_Tenant_Id=str(tenant), **headers)
            assert reply.status in {200, 422}, (path, reply)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_key_that_shares_all_but_a_character_with_another_is_no_key(service, instances, fake):
    tenant = service.tenant()
    made = [service.new_key(tenants=[tenant])["key"] for _ in range(3)]
    for each in instances:
        eventually(lambda: each.complete({}, key=made[-1]).status == 422)  # noqa: B023
    wrong = []
    for key in [*made, ADMIN_KEY]:
        wrong += [key[:-1], key + "x", key[:-1] + chr(ord(key[-1]) ^ 1), key.swapcase(), key[: len(key) // 2]]
        wrong += [f"{key} {key}", f"{key},", key[:12], "x" + key[1:], key + "%", key[::-1]]
    wrong += ["%", "' OR '1'='1", "_" * len(made[0])]
    for place, key in enumerate(wrong):
        reply = instances[place % len(instances)].complete(numbered_body(place, tenant), key=key)
        assert reply.status == 401, (key, reply)
    assert fake.receipts() == []
    outcomes = []
    for place, key in enumerate(made):
        reply = instances[place % len(instances)].complete(numbered_body(place, tenant), key=key)
        assert reply.status == 200
        outcomes.append(Outcome(place, 200, reply.body))
    rows = service.rows(tenant_id=tenant)
    assert len({row["key_id"] for row in rows}) == len(made), "each is charged to the key that was sent"
    measure(service, fake, tenant, outcomes).check("keys sharing a prefix", refused=len(wrong))
