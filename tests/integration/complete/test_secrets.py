"""Prompts, answers and keys reach the provider and the caller, and nothing else: no log, no file and no table."""

import re
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.postgres import shared_server
from harness.service import ADMIN_KEY, NO_BREAKER, PROVIDER_KEY, Service, eventually, limits, model, providers
from tollhouse.testing import Behaviour, FakeProvider

CANARIES = {
    "prompt": "canary-in-the-prompt",
    "system prompt": "canary-in-the-system-prompt",
    "schema": "canary-in-the-schema",
    "answer": "canary-in-the-answer",
    "idempotency key": "canary-as-the-idempotency-key",
    "unknown field": "canary-as-an-unknown-field",
    "wrong key": "canary-as-a-wrong-key",
    "provider's reason": "canary-in-the-providers-reason",
    "admin key": ADMIN_KEY,
    "provider key": PROVIDER_KEY,
}


def _every_way_a_call_can_go(service: Service, fake: FakeProvider, key: str) -> set[int]:
    tenant, poor = service.tenant(), service.tenant(budget_usd=0)
    body = body_for(
        tenant,
        user_message=CANARIES["prompt"],
        system_prompt=CANARIES["system prompt"],
        response_schema={"type": "string", "description": CANARIES["schema"]},
        timeout_s=0.8,
    )
    behaviours = [
        Behaviour(),
        Behaviour(output_factor=2.0),
        Behaviour(usage="malformed"),
        Behaviour(gzip=True),
        Behaviour(status=400),
        Behaviour(status=401),
        Behaviour(status=500),
        Behaviour(status=502, bare=True),
        Behaviour(garbage=True),
        Behaviour(reset="mid_answer"),
        Behaviour(hang=True),
    ]
    statuses = set()
    for number, behaviour in enumerate(behaviours):
        told = {name: getattr(behaviour, name) for name in behaviour.__struct_fields__}
        fake.behave(Behaviour(**{**told, "content": CANARIES["answer"], "reason": CANARIES["provider's reason"]}))
        idempotency_key = f"{CANARIES['idempotency key']}-{number}"
        for _ in range(2):
            statuses.add(service.complete(body, key=key, Idempotency_Key=idempotency_key).status)
    fake.behave(Behaviour())
    for refused in (
        {**body, "max_tokens": CANARIES["prompt"]},
        {**body, CANARIES["unknown field"]: 1},
        {**body, "tenant_id": poor},
        {**body, "model": CANARIES["prompt"]},
        CANARIES["prompt"].encode(),
        b'{"user_message": "' + CANARIES["prompt"].encode() + b"\xff",
    ):
        statuses.add(service.complete(refused, key=key).status)
    statuses.add(service.complete(body, key=CANARIES["wrong key"]).status)
    statuses.add(service.complete({**body, "tenant_id": "somebody"}, key=key).status)
    with service.socket() as connection:
        connection.sendall(f"GET /{CANARIES['prompt']} HTTP/1.1\r\nauthorization Bearer {key}\r\n\r\n".encode())
        connection.recv(1000)
    return statuses


@pytest.fixture(scope="module")
def left_behind(engine, tmp_path_factory) -> dict[str, bytes]:
    """Everything that a service left behind after it was stopped, and what it had written before."""
    directory: Path = tmp_path_factory.mktemp("canaries")
    with FakeProvider() as fake:
        config = providers(fake) + model("claude-haiku-4-5", "anthropic") + limits() + NO_BREAKER
        with Service(directory, config) as service:
            key = service.new_key()["key"]
            statuses = _every_way_a_call_can_go(service, fake, key)
            assert statuses >= {200, 401, 402, 403, 404, 422, 503, 504}
            eventually(lambda: not service.open_reservations())
            left = {f"{path.name} while it ran": path.read_bytes() for path in directory.iterdir()}
            if engine == "postgresql":
                left |= _on_the_server(service)
        sent = b"".join(bytes(receipt.raw_request) for receipt in fake.receipts())
    for name in ("prompt", "system prompt", "schema"):
        assert CANARIES[name].encode() in sent, "the provider has seen it"
    assert len(fake.receipts()) > 10
    CANARIES["service key"] = key
    return left | {path.name: path.read_bytes() for path in directory.iterdir()}


def _on_the_server(service: Service) -> dict[str, bytes]:
    """Return each table as text, and the server's log, which holds what failed."""
    names = service.query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    tables = {}
    for name in (row["relname"] for row in names):
        rows = service.query(f'SELECT t::text AS line, to_jsonb(t)::text AS json FROM "{name}" AS t')
        # A row's bytes are shown in hex, in which a canary could not be seen.
        shown = "\n".join(f"{row['line']}\n{row['json']}" for row in rows).encode()
        tables[name] = shown + b"".join(map(bytes.fromhex, re.findall(r"\\x((?:[0-9a-f]{2})+)", shown.decode())))
    return tables | {"log of the server": shared_server().log_file.read_bytes()}


@pytest.mark.parametrize("name", [*CANARIES, "service key"])
def test_what_is_secret_is_in_no_file_no_table_and_no_log(left_behind, engine, name):
    canary = CANARIES[name].encode()
    kept_in = {
        "sqlite": {"tollhouse.db", "tollhouse.db-wal while it ran"},
        "postgresql": {"ai_service_keys", "ai_settings", "ai_audit_log", "ai_idempotency", "log of the server"},
    }
    assert {"log"} | kept_in[engine] <= set(left_behind)
    found = [file for file, content in left_behind.items() if canary in content and file != "tollhouse.toml"]
    assert found == []


def test_the_log_has_something_to_say_and_the_database_keeps_answers(left_behind, engine):
    assert b"a provider billed more than the limits it was given allow" in left_behind["log"]
    if engine == "sqlite":
        assert b"ai_idempotency" in left_behind["tollhouse.db"]
    else:
        assert re.search(rb'"sealed_answer": "\\\\x[0-9a-f]{60}', left_behind["ai_idempotency"])
        assert any(b"sales-summary" in left_behind[name] for name in left_behind if name.startswith("ai_usage_log_"))
