"""HTTP/1.1 as clients, proxies and attackers speak it: what is a call, what is refused, and nothing in between."""

import contextlib
import json
import re

import pytest

from harness.calls import body_for
from harness.service import ADMIN_KEY, eventually
from harness.wire import Wire, chunked, head_of, request
from tollhouse.testing import Behaviour

# Connections and their deadlines have nothing to do with where the books are.
pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture
def wire(tight):
    with Wire(tight) as wire:
        yield wire


@pytest.fixture
def tenant(tight):
    return tight.tenant()


# What is a call.


def test_a_connection_serves_one_call_after_the_other(tight, tight_fake, tenant, wire):
    ids = {wire.send(request(tenant)).reply().json["request_id"] for _ in range(3)}
    assert len(ids) == 3
    assert wire.send(request(tenant)).reply().status == 429
    assert wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200
    assert wire.send(request(tenant, key="th_unknown")).reply().status == 401
    assert wire.send(request(tenant, max_tokens=0)).reply().status == 422
    assert len(tight_fake.receipts()) == 3


def test_a_call_may_arrive_in_any_pieces(tight, tight_fake, tenant, wire):
    whole = request(tenant)
    for size in (3, 40):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        for piece in pieces:
            wire._socket.sendall(piece)
        assert wire.reply().status == 200


def test_a_chunked_call_is_a_call(tight, tight_fake, tenant, wire):
    raw = json.dumps(body_for(tenant, model="m")).encode()
    head = request(tenant, "transfer-encoding: chunked", length=False, body=b"")
    assert wire.send(head + chunked(raw)).reply().status == 200
    assert wire.send(head, *chunked(raw, size=100).splitlines(keepends=True)).reply().status == 200


def test_connections_are_kept_or_closed_as_http_has_it(tight, tight_fake, tenant):
    with Wire(tight) as wire:
        assert wire.send(request(tenant, version="1.0")).reply().headers["connection"] == "close"
        assert wire.is_closed()
    with Wire(tight) as wire:
        assert wire.send(request(tenant, "connection: close")).reply().headers["connection"] == "close"
        assert wire.is_closed()
    with Wire(tight) as wire:
        for _ in range(2):
            reply = wire.send(request(tenant, "connection: keep-alive", version="1.0")).reply()
            assert "connection" not in reply.headers
        assert reply.status == 429, "the fourth call of this tenant"


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(tight, tight_fake, tenant, wire):
    head, body = request(tenant, "expect: 100-continue").split(b"\r\n\r\n")
    interim = wire.send(head + b"\r\n\r\n").reply()
    assert (interim.status, interim.body) == (100, b"")
    assert wire.send(body).reply().status == 200


def test_a_client_that_waits_for_100_continue_is_told_at_once_why_it_need_not_go_on(tight, tight_fake, tenant):
    expecting = "expect: 100-continue"
    refused = [(request(tenant, expecting, key="th_x"), 401), (request(tenant, expecting, body=b" " * 30_000), 413)]
    for call, status in refused:
        head, _ = call.split(b"\r\n\r\n")
        with Wire(tight) as wire:
            reply = wire.send(head + b"\r\n\r\n").reply()
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            assert reply.code


def test_a_client_that_does_not_wait_for_100_continue_gets_its_answer_alone(tight, tight_fake, tenant, wire):
    whole = request(tenant, "expect: 100-continue")
    assert wire.send(whole).reply().status == 200
    assert wire.send(whole[:-80], whole[-80:]).reply().status == 200


def test_the_control_plane_tells_a_client_that_waits_for_100_continue_too(tight, tenant):
    body = b'{"name": "renamed"}'
    waiting = ["PUT", f"/admin/tenants/{tenant}", "expect: 100-continue", f"content-length: {len(body)}"]
    with Wire(tight) as wire:
        interim = wire.send(head_of(*waiting)).reply()
        assert (interim.status, interim.body) == (100, b"")
        assert wire.send(body).reply().json["name"] == "renamed"
    with Wire(tight) as wire:
        reply = wire.send(head_of(*waiting, key="th_unknown")).reply()
        assert (reply.status, reply.code) == (401, "ai_unauthorized")


@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.3"])
def test_the_offer_of_another_protocol_is_declined_and_the_call_served(tight, tight_fake, tenant, wire, offer):
    # Java's client sends "Upgrade: h2c" with its first request on every connection.
    upgrade = ("connection: Upgrade, HTTP2-Settings", f"upgrade: {offer}", "http2-settings: AAEAAEAAAAIAAAAB")
    assert wire.send(request(tenant, *upgrade)).reply().status == 200
    head, body = request(tenant, *upgrade).split(b"\r\n\r\n")
    assert wire.send(head + b"\r\n\r\n", body).reply().status == 200, "a body that comes after its head"
    assert wire.send(request(tenant)).reply().status == 200
    assert len(tight_fake.receipts()) == 3


def test_the_offer_of_another_protocol_changes_nothing_else_about_a_request(tight, tight_fake, tenant, wire):
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB")
    head, body = request(tenant, *upgrade, "expect: 100-continue").split(b"\r\n\r\n")
    assert wire.send(head + b"\r\n\r\n").reply().status == 100
    assert wire.send(body).reply().status == 200
    assert (
        wire.send(request(tenant, *upgrade, "transfer-encoding: chunked", length=False, body=b"") + chunked(body))
        .reply()
        .status
        == 200
    )
    put = head_of("PUT", f"/admin/tenants/{tenant}", *upgrade, "content-length: 17")
    assert wire.send(put, b'{"name": "offer"}').reply().json["name"] == "offer"
    assert wire.send(request(tenant, *upgrade, key="th_unknown")).reply().status == 401
    assert len(tight_fake.receipts()) == 2


# Several requests at once.


def test_calls_sent_before_the_last_was_answered_are_not_served_and_corrupt_nothing(tight, tight_fake, tenant, wire):
    tight_fake.behave(Behaviour(delay_s=0.1))
    reply = wire.send(request(tenant) + request(tenant, max_tokens=7)).reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert wire.is_closed()
    assert [receipt.request["max_tokens"] for receipt in tight_fake.receipts()] == [400]


@pytest.mark.parametrize("rest", [b"garbage\0\r\n\r\n", b"POST /ai/comp", b"GET / HTTP/1.1\r\nx: " + b"a" * 9000])
def test_whatever_follows_a_call_its_own_answer_is_sent(tight, tight_fake, tenant, wire, rest):
    # Longer than the time in which a head has to arrive: the call is paid for, and its answer owed.
    tight_fake.behave(Behaviour(delay_s=1.2))
    reply = wire.send(request(tenant), rest).reply()
    assert reply.status == 200
    assert wire.is_closed()


def test_a_request_to_the_control_plane_may_be_followed_by_a_call(tight, tight_fake, tenant, wire):
    reply = wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply()
    assert reply.status == 200
    assert wire.send(request(tenant)).reply().status == 200


# What is refused.


@pytest.mark.parametrize(
    "extra",
    [
        ["transfer-encoding: chunked"],
        ["content-length: 3"],
        ["transfer-encoding: xchunked"],
        ["transfer-encoding: chunked, identity"],
        ["content-length : 5"],
        ["transfer-encoding : chunked"],
        ["x: y\r\n folded"],
        ["x\0y: z"],
    ],
)
def test_a_head_that_two_servers_could_read_differently_is_refused(tight, tight_fake, tenant, wire, extra):
    """Request smuggling needs two readings of where a request ends (RFC 9112 §11.2)."""
    raw = json.dumps(body_for(tenant, model="m")).encode()
    smuggled = request(tenant, *extra, body=chunked(raw) + request(tenant))
    reply = wire.send(smuggled).reply()
    assert (reply.status, reply.code) == (400, "ai_invalid_request")
    assert reply.headers["connection"] == "close"
    assert wire.is_closed()
    assert tight_fake.receipts() == []


def test_two_equal_lengths_and_two_codings_are_refused_too(tight, tight_fake, tenant):
    whole = request(tenant)
    (length,) = re.findall(rb"content-length: \d+\r\n", whole)
    head = request(tenant, "transfer-encoding: chunked", "transfer-encoding: chunked", length=False, body=b"")
    for raw in (whole.replace(length, 2 * length), head + chunked(b"{}")):
        with Wire(tight) as wire:
            assert wire.send(raw).reply().status == 400
    assert tight_fake.receipts() == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # HTTP/2 with prior knowledge
        b"\0" * 100,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"POST /ai/complete HTTP/9.9\r\n\r\n",
        b"POST /ai/complete HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /ai/complete HTTP/1.1\r\ncontent-length: 9999999999999999999999\r\n\r\n",
        b"POST /ai/complete HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /ai/complete HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /ai/complete HTTP/1.1\nhost: x\n\n",
    ],
)
def test_what_is_not_http_gets_a_400_in_the_form_of_every_error(tight, wire, raw):
    reply = wire.send(raw).reply()
    assert (reply.status, reply.code) == (400, "ai_invalid_request")
    assert wire.is_closed()
    assert tight.request("GET", "/livez").status == 200


@pytest.mark.parametrize("target", ["example.com:443", "/ai/complete"])
def test_a_tunnel_is_not_made_and_what_is_sent_into_it_not_read(tight, tight_fake, tenant, wire, target):
    reply = wire.send(head_of("CONNECT", target) + request(tenant), request(tenant)).reply()
    assert (reply.status, reply.code, reply.headers["connection"]) == (405, "ai_method_not_allowed", "close")
    assert wire.is_closed()
    assert tight_fake.receipts() == []


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /ai/complete HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"POST /ai/complete?" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /ai/complete HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(500)) + b"\r\n",
        b"POST /ai/complete HTTP/1.1\r\nx: " + b"a" * 50_000,
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 300_000 + b"\r\n\r\n",
    ],
)
def test_a_head_over_the_limit_is_431(tight, wire, raw):
    reply = wire.send(raw).reply()
    assert (reply.status, reply.code) == (431, "ai_headers_too_large")
    assert "4096 bytes" in reply.message


def test_a_large_body_does_not_count_as_head(tight, tight_fake, tenant, wire):
    assert wire.send(request(tenant, user_message="x" * 15_000)).reply().status == 200


@pytest.mark.parametrize("started", [b"", b"POST", b"POST /ai/complete HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_arrive_in_time_is_408(tight, wire, started):
    reply = wire.send(started).reply()
    assert (reply.status, reply.code) == (408, "ai_request_timeout")
    assert reply.message == "the request's head did not arrive within 0.8 seconds"
    assert wire.is_closed()


def test_a_body_that_does_not_arrive_in_time_is_408_however_it_trickles(tight, tight_fake, tenant):
    for key in (ADMIN_KEY, "th_unknown"):
        with Wire(tight) as wire:
            whole = request(tenant, key=key)
            # It is given up while it is still sending.
            with contextlib.suppress(OSError):
                wire.send(whole[:-80], *(whole[place : place + 1] for place in range(-80, -1)))
            reply = wire.reply()
            assert (reply.status, reply.code) == (408, "ai_request_timeout")
            assert reply.message == "the request's body did not arrive within 0.8 seconds"
    assert tight_fake.receipts() == []


def test_a_body_over_the_limit_is_413_though_the_client_sends_on(tight, tight_fake, tenant):
    for raw in (request(tenant, body=b" " * 2_000_000), request(tenant, body=b" " * 20_001)):
        with Wire(tight) as wire:
            reply = wire.send(raw).reply()
            assert (reply.status, reply.code) == (413, "ai_request_too_large")
            assert wire.is_closed()
    with Wire(tight) as wire:
        declared = request(tenant, "content-length: 20001", length=False, body=b"")
        assert wire.send(declared).reply().status == 413, "told by its length alone, before it is sent"
    with Wire(tight) as wire:
        head = request(tenant, "transfer-encoding: chunked", length=False, body=b"")
        assert wire.send(head, chunked(b" " * 1_000_000, size=50_000)).reply().status == 413
    assert tight_fake.receipts() == []


def test_one_connection_too_many_is_503_and_the_others_are_served(tight, tight_fake, tenant):
    with contextlib.ExitStack() as opened:
        wires = [opened.enter_context(Wire(tight)) for _ in range(31)]
        reply = wires.pop().reply()
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "ai_unavailable", "1")
        assert reply.message == "all 30 connections are in use"
        assert wires[0].send(request(tenant)).reply().status == 200
    eventually(lambda: tight.request("GET", "/livez").status == 200)


def test_other_methods_and_addresses_are_not_completions(tight, tight_fake, tenant):
    body = body_for(tenant, model="m")
    assert tight.request("PUT", "/ai/complete", body).code == "ai_method_not_allowed"
    assert tight.request("GET", "/ai/complete").headers["allow"].startswith("POST")
    for path in ("/ai/complete/", "//ai/complete", "/AI/complete", "/ai/%63omplete"):
        reply = tight.request("POST", path, body)
        assert (reply.status, reply.code) == (404, "ai_not_found"), path
    assert tight_fake.receipts() == []


def test_nothing_of_all_this_is_left_behind(tight):
    eventually(lambda: "tollhouse_calls_in_flight 0.0" in tight.request("GET", "/metrics").body.decode())
    assert tight.open_reservations() == []
    assert tight.findings() == []
    log = [json.loads(line) for line in tight.log().splitlines()]
    assert {line["event"] for line in log} <= {"database migrated", "serving", "running jobs"}, (
        "no stranger can fill the log"
    )
