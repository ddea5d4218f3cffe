"""Limits over HTTP: what the head of every answer tells, and what calls, streams and failures take and give back."""

import json
from contextlib import closing

import pytest

from harness.calls import body_for
from harness.service import ADMIN_KEY, eventually, limits, model, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

A_MINUTE = 6000
MANY = "[limits.feature]\nrequests_per_minute = 1\nburst = 8\n"
# What is told follows from what the engines decide, and that is compared elsewhere.
once = pytest.mark.engine("sqlite")


@pytest.fixture(scope="module")
def _crowded(engine, tmp_path_factory):
    with FakeProvider() as fake:
        limited = limits(requests_per_minute=0, tokens_per_minute=A_MINUTE, concurrent_calls=2)
        config = "".join([providers(fake), model("m", "anthropic"), limited, MANY])
        with serving(tmp_path_factory.mktemp("crowded"), config) as service:
            yield service, fake


@pytest.fixture
def crowded(_crowded):
    """A service with limits on tokens, on calls at the same time, and on the calls of a feature."""
    return _crowded[0]


@pytest.fixture
def fake(_crowded):
    _crowded[1].reset()
    return _crowded[1]


def call(service, path, body, tenant):
    headers = {"X-Tenant-Id": str(tenant), "X-Feature-Slug": "f"}
    return service.request("POST", path, body, **headers)


def begun_stream(service, tenant):
    """Begin a stream, and return its connection and its answer, of which the head was read."""
    connection = service.connection()
    body = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"X-Tenant-Id": str(tenant), "X-Feature-Slug": "f", "Authorization": f"Bearer {ADMIN_KEY}"}
    connection.request("POST", "/v1/messages", json.dumps(body), headers)
    return connection, connection.getresponse()


@once
def test_an_answer_and_a_refusal_say_where_the_limit_stands(tight, tight_fake):
    tenant = tight.tenant()
    replies = [tight.complete(body_for(tenant, model="m")) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    told = [(reply.headers["ratelimit-limit"], reply.headers["ratelimit-remaining"]) for reply in replies]
    assert told == [("1", "1"), ("1", "1"), ("1", "0"), ("1", "0")]
    assert replies[0].headers["ratelimit-policy"] == '"tenant-requests";q=1;w=60;burst=3'
    assert 0 < int(replies[3].headers["retry-after"]) <= 60
    assert 120 < int(replies[3].headers["ratelimit-reset"]) <= 180
    assert len(tight_fake.receipts()) == 3


@once
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "name", "foreign"),
    [
        ("/v1/chat/completions", "x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
        ("/v1/messages", "anthropic-ratelimit-requests-remaining", "x-ratelimit-remaining-requests"),
    ],
)
def test_clients_of_vendors_are_told_by_their_vendors_names(tight, tight_fake, path, name, foreign, stream):
    tenant = tight.tenant()
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    replies = [call(tight, path, body, tenant) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers[name] for reply in replies] == ["1", "1", "0", "0"]
    assert not any(foreign in reply.headers for reply in replies)


def test_a_stream_holds_its_place_until_its_end(crowded, fake):
    tenant = crowded.tenant()
    fake.behave(Behaviour(chunk_delay_s=0.15))
    streams = [begun_stream(crowded, tenant) for _ in range(2)]
    assert [answer.status for _, answer in streams] == [200, 200]
    assert '"tenant-concurrent";r=0' in streams[1][1].getheader("RateLimit")
    refused = crowded.complete(body_for(tenant, model="m"))
    assert (refused.status, refused.code) == (429, "ai_rate_limited")
    assert refused.message.startswith(f"tenant {tenant} has reached its limit of 2 calls at the same time")
    assert refused.headers["retry-after"] == "1"
    assert '"tenant-concurrent";q=2;qu="concurrent-requests"' in refused.headers["ratelimit-policy"]
    for connection, answer in streams:
        with closing(connection):
            assert b"message_stop" in answer.read()
    assert crowded.complete(body_for(tenant, model="m")).status == 200, "the last event comes once a place is free"


def test_a_stream_whose_caller_left_gives_its_place_back(crowded, fake):
    tenant = crowded.tenant()
    fake.behave(Behaviour(chunk_delay_s=0.1))
    for _ in range(2):
        begun_stream(crowded, tenant)[0].close()
    assert crowded.complete(body_for(tenant, model="m")).status == 429, "it is still read to its end, and paid for"
    fake.behave(Behaviour())
    eventually(lambda: crowded.complete(body_for(tenant, model="m")).status == 200)
    assert {row["status"] for row in crowded.rows(tenant_id=tenant)} == {"settled"}


def test_tokens_that_were_not_used_are_there_for_the_next_call(crowded, fake):
    tenant = crowded.tenant()
    most = body_for(tenant, model="m", max_tokens=A_MINUTE - 100)
    for behaviour, status in ((Behaviour(), 200), (Behaviour(status=400), 422), (Behaviour(status=500), 503)):
        fake.behave(behaviour)
        assert [crowded.complete(most).status for _ in range(2)] == [status] * 2
    fake.behave(Behaviour(hang=True))
    assert crowded.complete({**most, "timeout_s": 0.3}).status == 504
    fake.behave(Behaviour())
    refused = crowded.complete(most)
    assert refused.message.startswith(f"tenant {tenant} has reached its limit of {A_MINUTE} tokens a minute")
    assert int(refused.headers["retry-after"]) > 30, "what it used nobody knows, so nothing of it comes back"
    assert refused.headers["ratelimit"].startswith('"tenant-tokens";r=')


def test_a_call_that_never_fits_is_not_asked_to_come_again(crowded, fake):
    tenant = crowded.tenant()
    reply = crowded.complete(body_for(tenant, model="m", max_tokens=A_MINUTE))
    assert (reply.status, reply.code) == (422, "ai_too_many_tokens")
    assert "retry-after" not in reply.headers
    assert fake.receipts() == []


def test_openais_clients_are_told_of_tokens(crowded, fake):
    body = {"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "x" * 400}]}
    reply = call(crowded, "/v1/chat/completions", body, crowded.tenant())
    assert reply.headers["x-ratelimit-limit-tokens"] == str(A_MINUTE)
    assert A_MINUTE - 700 < int(reply.headers["x-ratelimit-remaining-tokens"]) <= A_MINUTE - 600


def test_a_features_limit_leaves_the_tenants_other_features_alone(crowded, fake):
    tenant = crowded.tenant()
    replies = [crowded.complete(body_for(tenant, model="m", max_tokens=9)) for _ in range(9)]
    assert [reply.status for reply in replies] == [200] * 8 + [429]
    assert replies[-1].message.startswith(f"feature sales-summary of tenant {tenant} has reached its rate limit")
    assert crowded.complete(body_for(tenant, model="m", max_tokens=9, feature_slug="another")).status == 200
    assert len(fake.receipts()) == 9


def test_limits_of_ones_own_hold_from_the_next_call_until_they_are_taken_away(crowded, fake):
    tenant, made = crowded.tenant(), crowded.new_key()
    body = body_for(tenant, model="m", max_tokens=9)
    assert crowded.complete(body, key=made["key"]).status == 200
    for path, whose in (
        (f"/admin/tenants/{tenant}/limits", f"tenant {tenant}"),
        (f"/admin/tenants/{tenant}/limits/user/101", f"user 101 of tenant {tenant}"),
        (f"/admin/keys/{made['key_id']}/limits", f"service key {made['key_id']}"),
    ):
        crowded.admin("PUT", path, {"tokens_per_minute": 1})
        refused = crowded.complete(body, key=made["key"])
        assert refused.code == "ai_too_many_tokens"
        assert f"{whose} has 1 a minute" in refused.message
        crowded.admin("DELETE", path)
        assert crowded.complete(body, key=made["key"]).status == 200
