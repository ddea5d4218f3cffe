"""Events as clients follow them: streams, long polls and sockets, by key and by token."""

import contextlib
import json
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from harness.calls import body_for
from harness.following import Stream, subjects, target, tell
from harness.service import ADMIN_KEY, eventually, free_port, limits, model, provider, providers, serving
from tollhouse.testing import Behaviour, FakeProvider

CONFIG = """
[events]
heartbeat_s = 0.3
token_ttl_s = 60
max_clients_per_tenant = 6
allowed_origins = ["https://app.example.com"]
"""


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("events"), CONFIG) as service:
        yield service


def new_token(service, tenant, key=ADMIN_KEY, **wanted):
    reply = service.request("POST", "/events/token", {"tenant_id": tenant, **wanted}, key=key)
    assert reply.status == 200, reply
    return reply.json["token"]


def poll(service, *, key=ADMIN_KEY, **parameters):
    headers = {"Accept": "application/json"}
    return service.request("GET", target(**parameters), key=key, **headers)


def socket(service, *, key=ADMIN_KEY, **parameters):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = f"ws://127.0.0.1:{service.port}{target('/events/ws', **parameters)}"
    return connect(url, additional_headers=headers, proxy=None)


def close_code(closed):
    assert closed.rcvd is not None, "the service said goodbye"
    return closed.rcvd.code


def refused_status(url, **asked):
    with pytest.raises(InvalidStatus) as refused, connect(url, **asked):
        pass
    return refused.value.response.status_code


def test_a_tenant_whose_places_are_taken_is_told_so_and_gets_one_that_becomes_free(service):
    tenant, other = service.tenant(), service.tenant()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(service, tenant_id=tenant)) for _ in range(4)]
        stack.enter_context(socket(service, tenant_id=tenant))
        stack.enter_context(Stream(service, tenant_id=tenant, key=None, token=new_token(service, tenant)))
        refused = poll(service, tenant_id=tenant, wait_s=0)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "ai_rate_limited", "5")
        url = f"ws://127.0.0.1:{service.port}{target('/events/ws', tenant_id=tenant)}"
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        assert refused_status(url, additional_headers=headers, proxy=None) == 429
        assert poll(service, tenant_id=other, wait_s=0).status == 200
        assert poll(service, wait_s=0).status == 200
        streams[0].connection.close()
        eventually(lambda: poll(service, tenant_id=tenant, wait_s=0).status == 200)


# Streams.


def test_a_stream_tells_events_as_they_come(service):
    tenant = service.tenant()
    with Stream(service, tenant_id=tenant) as stream:
        assert stream.answer.status == 200
        assert stream.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.answer.headers["cache-control"] == "no-store"
        assert stream.answer.headers["x-accel-buffering"] == "no"
        tell(service, "job_1", tenant_id=tenant, user_id=101)
        (event,) = stream.take(1)
        assert event == {
            "specversion": "1.0",
            "id": event["id"],
            "source": "/tollhouse",
            "type": "ai.job.completed",
            "subject": "job_1",
            "time": event["time"],
            "sequence": f"{int(stream.last_event_id):020}",
            "datacontenttype": "application/json",
            "tenantid": str(tenant),
            "userid": "101",
            "data": {"n": "job_1"},
        }
        tell(service, *range(300), tenant_id=tenant)
        assert subjects(stream.take(300)) == [str(number) for number in range(300)]


def test_a_stream_goes_on_after_the_last_event_that_was_read(service):
    tenant, other = service.tenant(), service.tenant()
    with Stream(service, tenant_id=tenant) as stream:
        tell(service, "a", "b", tenant_id=tenant)
        assert subjects(stream.take(2)) == ["a", "b"]
    tell(service, "of another", tenant_id=other)
    tell(service, "c", "d", tenant_id=tenant)
    # A browser repeats the address of the first time, and adds the header.
    with Stream(service, tenant_id=tenant, after=0, last=stream.last_event_id) as again:
        assert subjects(again.take(2)) == ["c", "d"]
    with Stream(service, tenant_id=tenant, after=again.last_event_id) as third:
        tell(service, "e", tenant_id=tenant)
        assert subjects(third.take(1)) == ["e"]


def test_a_stream_on_which_nothing_happens_still_tells_where_to_go_on(service):
    tenant, other = service.tenant(), service.tenant()
    with Stream(service, tenant_id=tenant) as stream:
        tell(service, "of another", tenant_id=other)
        (newest,) = service.query("SELECT max(id) AS id FROM ai_events")
        stream.wait_for_id(newest["id"])
    tell(service, "meanwhile", tenant_id=tenant)
    with Stream(service, tenant_id=tenant, last=stream.last_event_id) as again:
        assert subjects(again.take(1)) == ["meanwhile"]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, ["1", "2", "3"]),
        ({"user_id": 101}, ["1", "3"]),
        ({"types": "ai.job.failed"}, ["3"]),
        ({"types": "ai.job.failed,ai.job.completed", "user_id": "b"}, ["2"]),
    ],
)
def test_a_stream_has_what_was_asked_for(service, parameters, told):
    tenant, other = service.tenant(), service.tenant()
    with Stream(service, tenant_id=tenant, **parameters) as stream:
        tell(service, 0, tenant_id=other, user_id=101)
        tell(service, 1, tenant_id=tenant, user_id=101)
        tell(service, 2, tenant_id=tenant, user_id="b")
        tell(service, 3, tenant_id=tenant, user_id=101, kind="ai.job.failed")
        assert subjects(stream.take(len(told))) == told


def test_a_key_follows_its_own_tenants(service):
    mine, other = service.tenant(), service.tenant()
    key = service.new_key(tenants=[mine])["key"]
    with Stream(service, key=key) as stream:
        tell(service, "of another", tenant_id=other)
        tell(service, "mine", tenant_id=mine)
        assert subjects(stream.take(1)) == ["mine"]
    reply = poll(service, key=key, tenant_id=other)
    assert (reply.status, reply.code) == (403, "ai_tenant_forbidden")


def test_what_concerns_no_tenant_is_for_super_admins(service):
    tenant = service.tenant()
    key = service.new_key()["key"]
    with Stream(service, key=key) as stream, Stream(service) as admins:
        tell(service, "of none", tenant_id="")
        tell(service, "of one", tenant_id=tenant)
        assert subjects(stream.take(1)) == ["of one"]
        assert subjects(admins.take(2)) == ["of none", "of one"]


def test_a_stream_ends_with_its_key(service):
    tenant = service.tenant()
    made = service.new_key(tenants=[tenant])
    with Stream(service, key=made["key"]) as stream:
        stream.wait_for_any_id()
        service.admin("DELETE", f"/admin/keys/{made['key_id']}")
        tell(service, "for nobody any more", tenant_id=tenant)
        assert b"data:" not in stream.rest()


# Tokens.


def test_a_browser_follows_with_a_token_and_sees_no_more_than_it_grants(service):
    tenant, other = service.tenant(), service.tenant()
    token = new_token(service, tenant, user_id=101)
    with Stream(service, key=None, token=token) as stream, Stream(service, key=token) as as_header:
        tell(service, 1, tenant_id=other, user_id=101)
        tell(service, 2, tenant_id=tenant, user_id=102)
        tell(service, 3, tenant_id=tenant, user_id=101)
        assert subjects(stream.take(1)) == ["3"]
        assert subjects(as_header.take(1)) == ["3"]
    for parameters, code in [
        ({"tenant_id": other}, "ai_tenant_forbidden"),
        ({"user_id": 102}, "ai_forbidden"),
    ]:
        reply = poll(service, key=None, token=token, **parameters)
        assert (reply.status, reply.code) == (403, code)


def test_a_token_and_its_streams_end_in_time(service):
    tenant = service.tenant()
    token = new_token(service, tenant, ttl_s=1)
    with Stream(service, key=None, token=token) as stream:
        stream.rest()
    reply = poll(service, key=None, token=token)
    assert (reply.status, reply.code) == (401, "ai_unauthorized")


def test_a_token_ends_with_the_key_that_made_it(service):
    tenant = service.tenant()
    made = service.new_key(tenants=[tenant])
    token = new_token(service, tenant, made["key"])
    assert poll(service, key=None, token=token, wait_s=0).status == 200
    service.admin("DELETE", f"/admin/keys/{made['key_id']}")
    assert poll(service, key=None, token=token).code == "ai_unauthorized"


def test_a_token_that_was_changed_is_refused(service):
    token = new_token(service, service.tenant())
    claims, _, signature = token.partition(".")
    for forged in [
        token[:-1],
        token + "x",
        f"{claims[:-2]}AA.{signature}",
        f"{claims}.",
        claims,
        "et_",
        "et_.",
        "et_é.",
    ]:
        reply = poll(service, key=None, token=forged)
        assert (reply.status, reply.code) == (401, "ai_unauthorized"), forged


def test_who_gets_a_token(service):
    mine, other = service.tenant(), service.tenant()
    bound, reader = service.new_key(tenants=[mine])["key"], service.new_key(role="reader")["key"]

    def refusal(key, body):
        reply = service.request("POST", "/events/token", body, key=key)
        return reply.status, reply.code

    assert refusal(bound, {"tenant_id": other}) == (403, "ai_tenant_forbidden")
    assert refusal(reader, {"tenant_id": mine}) == (403, "ai_forbidden")
    assert refusal(ADMIN_KEY, {}) == (422, "ai_invalid_request")
    assert refusal(bound, {"ttl_s": 0}) == (422, "ai_invalid_request")
    assert refusal(bound, {"tenant": mine}) == (422, "ai_invalid_request")
    assert service.request("POST", "/events/token", {"ttl_s": 5}, key=bound).status == 200
    # A token opens nothing else.
    token = new_token(service, mine, bound)
    assert service.request("GET", f"/ai/usage?tenant_id={mine}", key=token).status == 401


def test_an_edge_is_told_whose_a_request_with_a_token_is(service):
    tenant = service.tenant()
    token = new_token(service, tenant)
    for address in ("/events", "/events/ws"):
        reply = service.request("GET", f"/edge/authorize{address}?token={token}", key=None)
        assert (reply.status, reply.headers["x-tollhouse-tenant"]) == (200, str(tenant))
        assert service.request("GET", f"/edge/authorize{address}?token={token}x", key=None).status == 401
    assert service.request("GET", "/edge/authorize/events", key=token).status == 200
    for address in ("/ai/complete", "/events/token", "/v1/models"):
        assert service.request("GET", f"/edge/authorize{address}?token={token}", key=None).status == 401
        assert service.request("GET", f"/edge/authorize{address}", key=token).status == 401


# Long polls.


def test_a_long_poll_returns_what_there_is_and_where_to_go_on(service):
    tenant = service.tenant()
    start = poll(service, tenant_id=tenant, wait_s=0).json
    assert start["events"] == []
    tell(service, "a", "b", "c", tenant_id=tenant)
    first = poll(service, tenant_id=tenant, after=start["position"], limit=2).json
    assert subjects(first["events"]) == ["a", "b"]
    second = poll(service, tenant_id=tenant, after=first["position"], wait_s=0).json
    assert subjects(second["events"]) == ["c"]
    assert poll(service, tenant_id=tenant, after=second["position"], wait_s=0.1).json["events"] == []


def test_a_long_poll_waits_for_an_event(service):
    tenant = service.tenant()
    with contextlib.closing(service.connection()) as connection:
        connection.request(
            "GET",
            target(tenant_id=tenant, wait_s=20),
            headers={"Accept": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"},
        )
        # Whatever comes first, the answer is the event: it waits for it, or finds it.
        time.sleep(0.2)
        tell(service, "awaited", tenant_id=tenant)
        answer = connection.getresponse()
        assert subjects(json.loads(answer.read())["events"]) == ["awaited"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"after": "x"}, "after: expected the position of an event, a whole number"),
        ({"after": "-1"}, "after: expected the position of an event, a whole number"),
        ({"wait_s": "51"}, "wait_s: expected a number from 0 to 50"),
        ({"wait_s": "nan"}, "wait_s: expected a number from 0 to 50"),
        ({"limit": "0"}, "limit: expected a number from 1 to 500"),
        (
            {"tenant": "42"},
            "tenant: unknown parameter; known are tenant_id, user_id, types, after, token, wait_s, limit",
        ),
        ({"tenant_id": "x" * 65}, "tenant_id: expected 1 to 64 printable characters"),
        ({"types": ""}, "types: expected up to 50 types of events, with commas in between"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_what_was_expected(service, parameters, message):
    reply = poll(service, **parameters)
    assert (reply.status, reply.code, reply.message) == (422, "ai_invalid_request", message)


def test_a_position_of_another_database_is_gone(service):
    reply = poll(service, after=10**12)
    assert (reply.status, reply.code) == (410, "ai_events_gone")
    assert "there is no position 1000000000000 yet" in reply.message
    assert service.request("GET", "/events", Last_Event_ID="x").code == "ai_invalid_request"


def test_only_get_is_served(service):
    reply = service.request("POST", "/events", {})
    assert (reply.status, reply.code) == (405, "ai_method_not_allowed")
    assert reply.headers["allow"] == "GET, OPTIONS"
    assert service.request("GET", "/events", key=None).status == 401
    assert service.request("GET", "/events", key="th_unknown").status == 401


# Browsers of other origins.


def test_pages_of_configured_origins_may_follow(service):
    def allowed(origin, method="GET"):
        reply = service.request(method, "/events?wait_s=0", Origin=origin, Accept="application/json")
        assert reply.status in {200, 204}
        return reply.headers.get("access-control-allow-origin")

    assert allowed("https://app.example.com") == "https://app.example.com"
    assert allowed("https://app.example.com", "OPTIONS") == "https://app.example.com"
    assert allowed("https://evil.example.com") is None
    assert allowed(f"http://127.0.0.1:{service.port}") is None


# Sockets.


def test_a_socket_tells_the_same_events(service):
    tenant = service.tenant()
    with Stream(service, tenant_id=tenant) as stream, socket(service, tenant_id=tenant) as ws:
        ws.send("whatever a client says is not listened to")
        tell(service, "a", "b", tenant_id=tenant)
        told = [json.loads(ws.recv(20)) for _ in range(2)]
        assert told == stream.take(2)
        ws.ping().wait(20)
    tell(service, "c", tenant_id=tenant)
    with socket(service, tenant_id=tenant, after=int(told[-1]["sequence"])) as again:
        assert json.loads(again.recv(20))["subject"] == "c"


def test_a_socket_is_opened_with_a_token_and_ends_with_it(service):
    tenant = service.tenant()
    token = new_token(service, tenant, ttl_s=1)
    with socket(service, key=None, token=token) as ws:
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(20)
        assert close_code(closed.value) == 1008
    with pytest.raises(InvalidStatus) as refused, socket(service, key=None, token=token):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"] == "ai_unauthorized"


def test_a_socket_of_a_page_of_another_origin_is_refused(service):
    asked: dict[str, Any] = {"additional_headers": {"Authorization": f"Bearer {ADMIN_KEY}"}, "proxy": None}
    url = f"ws://127.0.0.1:{service.port}/events/ws"
    with connect(url, origin=Origin("https://app.example.com"), **asked) as ws:
        ws.ping().wait(20)
    assert refused_status(url, origin="https://evil.example.com", **asked) == 403


def test_no_socket_is_served_elsewhere(service):
    for path in ["/events", "/events/ws/", "/livez"]:
        assert refused_status(f"ws://127.0.0.1:{service.port}{path}?token=x", proxy=None) != 101


# The process.


def test_streams_and_sockets_end_when_the_service_stops(tmp_path):
    with serving(tmp_path, CONFIG) as service:
        tenant = service.tenant()
        with Stream(service, tenant_id=tenant) as stream, socket(service, tenant_id=tenant) as ws:
            assert service.terminate() == 0
            stream.rest()
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(20)
            assert close_code(closed.value) == 1012


def test_a_client_that_does_not_read_is_dropped_and_goes_on_later(tmp_path):
    config = "[events]\nsend_timeout_s = 0.5\nkeep_days = 1\n"
    with serving(tmp_path, config) as service:
        tenant = service.tenant()
        with Stream(service, tenant_id=tenant) as stream:
            stream.wait_for_any_id()
            text = "x" * 10_000
            written = 0
            while "a client that did not read was dropped" not in service.log():
                assert written < 10_000, "it was never dropped"
                tell(service, *(f"{written + number} {text}" for number in range(200)), tenant_id=tenant)
                written += 200
            got = list(stream.until_it_ends())
        assert 0 < len(got) < written
        with Stream(service, tenant_id=tenant, last=stream.last_event_id) as again:
            got += again.take(written - len(got))
        assert [event["subject"].split()[0] for event in got] == [str(number) for number in range(written)]


def test_a_fallback_is_told_as_an_event(tmp_path):

    with FakeProvider() as fake:
        config = "".join([
            providers(fake),
            provider("nowhere", "openai", f"http://127.0.0.1:{free_port()}/v1"),
            model("broken", "nowhere", fallbacks=["gpt-4o-mini"]),
            model("gpt-4o-mini", "openai"),
            limits(),
        ])  # fmt: skip
        fake.behave(Behaviour(content="yes"))
        with serving(tmp_path, config) as service:
            tenant = service.tenant()
            with Stream(service, tenant_id=tenant) as stream:
                reply = service.complete(body_for(tenant, model="broken"))
                assert reply.status == 200
                (event,) = stream.take(1)
            assert (event["type"], event["subject"]) == ("ai.provider.switched", reply.json["request_id"])
            assert event["data"]["before"] == {"provider": "nowhere", "model": "broken"}
            assert event["data"]["after"]["model"] == "gpt-4o-mini"
