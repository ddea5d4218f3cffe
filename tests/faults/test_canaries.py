"""Secrets planted as canaries: never in logs, tables, files, errors, metrics or the audit log."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import engines
from harness.postgres import shared_server
from harness.reckoning import numbered_body
from harness.service import ADMIN_KEY, PROVIDER_KEY, Service, eventually
from tollhouse.testing import Behaviour, FakeProvider

SERVICE_KEY = "service key"
PLANTED = {
    "prompt": "canary-prompt-61c2",
    "system prompt": "canary-system-61c2",
    "answer": "canary-answer-61c2",
    "idempotency key": "canary-idempotency-61c2",
    "wrong key": "canary-wrong-key-61c2",
    "unknown field": "canary-field-61c2",
    "provider's reason": "canary-reason-61c2",
    "admin key": ADMIN_KEY,
    "provider key": PROVIDER_KEY,
}
BEHAVIOURS = (
    Behaviour(),
    Behaviour(output_factor=2.0),
    Behaviour(usage="malformed"),
    Behaviour(status=400),
    Behaviour(status=401),
    Behaviour(status=500),
    Behaviour(garbage=True),
    Behaviour(reset="mid_answer"),
    Behaviour(hang=True),
)


def call_in_every_way(service: Service, fake: FakeProvider, key: str) -> list[bytes]:
    """Make calls of every outcome; return the bodies of all answers that are errors."""
    tenant, poor = service.tenant(), service.tenant(budget_usd=0)
    texts = {"user_message": PLANTED["prompt"], "system_prompt": PLANTED["system prompt"], "timeout_s": 0.4}
    body = numbered_body(7, tenant, **texts)
    replies = []
    for place, behaviour in enumerate(BEHAVIOURS):
        told = {name: getattr(behaviour, name) for name in behaviour.__struct_fields__}
        fake.behave(Behaviour(**{**told, "content": PLANTED["answer"], "reason": PLANTED["provider's reason"]}))
        for _ in range(2):
            replies.append(service.complete(body, key=key, Idempotency_Key=f"{PLANTED['idempotency key']}-{place}"))
    fake.behave(Behaviour())
    for refused in (
        {**body, "tenant_id": poor},
        {**body, "max_tokens": PLANTED["prompt"]},
        {**body, PLANTED["unknown field"]: 1},
        PLANTED["prompt"].encode(),
    ):
        replies.append(service.complete(refused, key=key))
    replies.append(service.complete(body, key=PLANTED["wrong key"]))
    assert {reply.status for reply in replies} >= {200, 401, 402, 422, 503, 504}
    # What a provider gives as its reason is passed on to the caller, and to nobody else; so is the name of a field.
    passed_on = {PLANTED["provider's reason"].encode(), PLANTED["unknown field"].encode()}
    errors = []
    for reply in replies:
        if reply.status != 200:
            shown = reply.body
            for each in passed_on:
                shown = shown.replace(each, b"")
            errors.append(shown)
    return errors


def table_texts(service: Service) -> Iterator[tuple[str, bytes]]:
    """Yield every table's rows as text, bytes written out."""
    if engines.current() == "sqlite":
        names = [row["name"] for row in service.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
    else:
        names = [
            row["tablename"] for row in service.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
    for name in names:
        values = [value for row in service.query(f"SELECT * FROM {name}") for value in row.values()]
        raw = [bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode() for value in values]
        yield f"table {name}", b"\n".join(raw)


def file_contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.suffix != ".toml":
                yield str(path.relative_to(folder)), path.read_bytes()


def all_places(engine: str, instances: list[Service], fake: FakeProvider) -> Iterator[tuple[str, bytes]]:
    """Yield everything that calls through any of the processes leave anywhere, and what it holds."""
    service, folder = instances[-1], instances[0].directory.parent
    fake.reset()
    PLANTED[SERVICE_KEY] = key = service.new_key()["key"]
    yield "errors", b"\n".join(call_in_every_way(service, fake, key))
    eventually(lambda: not service.open_reservations())
    for path in ("/metrics", "/health", "/admin/audit", "/admin/keys"):
        yield path, service.request("GET", path).body
    yield from table_texts(service)
    yield from file_contents(folder)
    if engine == "postgresql":
        # Its log, its write-ahead log and its tables, as they are on the disk.
        shared_server().execute("CHECKPOINT")
        yield "the server's log", shared_server().log().encode()
        for name, content in file_contents(shared_server().data):
            yield f"the server's {name}", content


# What shows that a place was searched while there was something in it.
MARKS = {
    "errors": b"may be billed",
    "/admin/keys": b"key_id",
    "table ai_usage_log": b"sales-summary",
    "table ai_idempotency": b"",
    "log": b"a provider billed more than the limits it was given allow",
}


@pytest.fixture(scope="module")
def searched(engine, instances, _fake) -> tuple[dict[str, set[str]], set[str]]:
    """The secrets found in each place, and the places where there was what they should hold at least."""
    found, held = {}, set()
    for place, content in all_places(engine, instances, _fake):
        found[place] = {name for name, canary in PLANTED.items() if canary.encode() in content}
        held |= {kind for kind, mark in MARKS.items() if place.endswith(kind) and content and mark in content}
    sent = b"".join(bytes(receipt.raw_request) for receipt in _fake.receipts())
    assert PLANTED["prompt"].encode() in sent, "the provider has seen it"
    return found, held


@pytest.mark.parametrize("name", [*PLANTED, SERVICE_KEY])
def test_what_is_secret_is_left_nowhere(searched, name):
    places = [place for place, names in searched[0].items() if name in names]
    print(f"\nFAULT {engines.current()} canary {name}: places={len(searched[0])} found={len(places)}")
    assert places == []


def test_what_was_searched_is_what_there_is(searched):
    """Or nothing could be found in it."""
    assert searched[1] == set(MARKS)
