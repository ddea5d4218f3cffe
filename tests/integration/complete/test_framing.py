"""Where a request ends, and what may stand around it: trailers, blank lines, and bodies nobody waits for."""

import contextlib
import json

import pytest

from harness.calls import body_for
from harness.service import ADMIN_KEY
from harness.wire import Wire, chunked, head_of, request
from tollhouse.testing import Behaviour

# How requests are cut out of a stream has nothing to do with where the books are.
pytestmark = pytest.mark.engine("sqlite")
CHUNKED = "transfer-encoding: chunked"
AS_ADMIN = b"authorization: Bearer " + ADMIN_KEY.encode()
AS_STRANGER = b"authorization: Bearer th_unknown"
NEW_KEY = b'{"service": "made from pieces"}'


@pytest.fixture
def wire(tight):
    with Wire(tight) as wire:
        yield wire


@pytest.fixture
def tenant(tight):
    return tight.tenant()


@pytest.fixture
def raw(tenant):
    """The body of a call."""
    return json.dumps(body_for(tenant, model="m")).encode()


def call_head(tenant, key=ADMIN_KEY):
    return request(tenant, CHUNKED, length=False, body=b"", key=key)


def send_until_cut_off(wire, line):
    """Send a line again and again, for many times as long as the service waits for a request."""
    with pytest.raises(OSError):
        wire.send(*[line] * 1000)


# Trailers.


def test_the_trailer_of_a_chunked_call_says_nothing(tight, tight_fake, tenant, raw, wire):
    trailed = chunked(raw, AS_STRANGER, b"idempotency-key: a", b"expect: 100-continue", b"connection: upgrade")
    replies = [wire.send(call_head(tenant) + trailed).reply() for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 200]
    assert len(tight_fake.receipts()) == 2, "the second is no repetition of the first"
    assert wire.send(call_head(tenant, key="th_unknown") + chunked(raw, AS_ADMIN)).reply().status == 401
    assert wire.send(call_head(tenant, key=None) + chunked(raw, AS_ADMIN)).reply().status == 401
    assert len(tight_fake.receipts()) == 2


def test_the_trailer_of_a_request_to_the_control_plane_says_nothing(service):
    head = head_of("POST", "/admin/keys", CHUNKED)
    with Wire(service) as wire:
        assert wire.send(head + chunked(NEW_KEY, AS_STRANGER)).reply().status == 200
        assert wire.send(head, chunked(NEW_KEY, AS_STRANGER)).reply().status == 200
    for key in (None, "th_unknown"):
        head = head_of("POST", "/admin/keys", CHUNKED, key=key)
        for parts in ([head + chunked(NEW_KEY, AS_ADMIN)], [head, chunked(NEW_KEY, AS_ADMIN)]):
            with Wire(service) as wire:
                assert wire.send(*parts).reply().code == "ai_unauthorized"


@pytest.mark.parametrize("key", [ADMIN_KEY, "th_unknown"], ids=["with a key", "without one"])
@pytest.mark.parametrize("rest", [b"x: y\r\n" * 1000, b"x: " + b"y" * 6000, b"y" * 6000], ids=["many", "long", "named"])
def test_a_trailer_is_bounded_as_the_head_is(tight, tight_fake, tenant, raw, wire, rest, key):
    wire.send(call_head(tenant, key=key) + chunked(raw).removesuffix(b"\r\n"))
    reply = wire.send(rest).reply()
    assert (reply.status, reply.code) == (431, "ai_headers_too_large")
    assert reply.message == "the request's trailer is over the limit of 4096 bytes"
    assert tight_fake.receipts() == []


def test_an_endless_trailer_takes_no_memory(service):
    def resident_bytes():
        return service.request("GET", "/health").json["memory"]["rss_bytes"]

    before = resident_bytes()
    with Wire(service) as wire, contextlib.suppress(OSError):
        wire.send(call_head(1, key="th_unknown") + b"2\r\n{}\r\n0\r\nx: ", *[b"y" * 1_000_000] * 60)
    assert resident_bytes() - before < 10_000_000, "60 MB were offered"


def test_a_trailer_that_says_close_closes_once_the_call_is_answered(tight, tight_fake, tenant, raw, wire):
    reply = wire.send(call_head(tenant) + chunked(raw, b"connection: close")).reply()
    assert reply.status == 200
    assert reply.headers["connection"] == "close"
    assert wire.is_closed()


def test_blank_lines_before_a_head_take_nothing_from_its_size(tight, tight_fake, tenant, wire):
    assert wire.send(request(tenant)).reply().status == 200
    assert wire.send(b"\r\n" * 2000, request(tenant)[:60], request(tenant)[60:]).reply().status == 200


def test_a_trailer_that_says_close_closes_though_the_request_was_answered_early(service):
    with Wire(service) as wire:
        head = head_of("POST", "/admin/keys", CHUNKED, key="th_unknown")
        assert wire.send(head).reply().status == 401
        wire.send(chunked(NEW_KEY, b"connection: close"))
        assert wire.is_closed()


def test_blank_lines_between_calls_take_nothing_from_the_time_of_the_next(tight, tight_fake, tenant, wire):
    assert wire.send(request(tenant)).reply().status == 200
    tight_fake.behave(Behaviour(delay_s=1.2))
    assert wire.send(b"\r\n", b"\r\n", request(tenant)).reply().status == 200
    assert [row["status"] for row in tight.rows(tenant_id=tenant)] == ["settled"] * 2


@pytest.mark.parametrize("key", [ADMIN_KEY, "th_unknown"], ids=["with a key", "without one"])
def test_a_trailer_that_does_not_end_in_time_is_408(tight, tight_fake, tenant, raw, wire, key):
    wire.send(call_head(tenant, key=key) + chunked(raw).removesuffix(b"\r\n"))
    send_until_cut_off(wire, b"x: y\r\n")
    reply = wire.reply()
    assert (reply.status, reply.code) == (408, "ai_request_timeout")
    assert reply.message == "the request's body did not arrive within 0.8 seconds"
    assert tight_fake.receipts() == []


@pytest.mark.parametrize(
    "field", [b"x : y", b"x\0: y", b"x: y\r\n folded", b"content-length: 5", b"transfer-encoding: chunked"]
)
def test_a_trailer_that_two_servers_could_read_differently_is_refused(tight, tight_fake, tenant, raw, wire, field):
    reply = wire.send(call_head(tenant) + chunked(raw, field) + request(tenant)).reply()
    assert (reply.status, reply.code, reply.headers["connection"]) == (400, "ai_invalid_request", "close")
    assert wire.is_closed()
    assert tight_fake.receipts() == []


# Blank lines, which RFC 9112 §2.2 has a server pass over.


def test_a_blank_line_before_or_after_a_call_is_passed_over(tight, tight_fake, tenant, wire):
    assert wire.send(b"\r\n", request(tenant)).reply().status == 200
    # Longer than the time in which a head has to arrive: no blank line begins one.
    tight_fake.behave(Behaviour(delay_s=1.2))
    assert wire.send(b"\r\n", request(tenant)).reply().status == 200
    assert wire.send(request(tenant) + b"\r\n", b"\r\n", b"\r\n").reply().status == 200
    assert wire.send(b"\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200


@pytest.mark.parametrize("calls_before", [0, 1])
def test_a_client_that_sends_blank_lines_alone_is_cut_off(tight, tight_fake, tenant, wire, calls_before):
    for _ in range(calls_before):
        assert wire.send(request(tenant)).reply().status == 200
    send_until_cut_off(wire, b"\r\n")
    reply = wire.reply()
    assert (reply.status, reply.code) == (408, "ai_request_timeout")
    assert wire.is_closed()


# Bodies the control plane does not wait for, or that never become whole.


@pytest.mark.parametrize("is_apart", [False, True], ids=["with the head", "after the head"])
@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\n",
        b"5\r\nabcdefgh\r\n",
        b"f" * 17 + b"\r\n",
        chunked(NEW_KEY).removesuffix(b"0\r\n\r\n") + b"zz\r\n",
        chunked(NEW_KEY, b"x : y"),
    ],
    ids=["no size", "longer than its size", "a size beyond all", "after the first", "in the trailer"],
)
def test_a_malformed_chunk_sent_to_the_control_plane_is_400_and_changes_nothing(service, body, is_apart):
    before = service.admin("GET", "/admin/keys")
    head = head_of("POST", "/admin/keys", CHUNKED)
    with Wire(service) as wire:
        wire.send(*([head, body] if is_apart else [head + body]))
        reply = wire.reply()
        assert (reply.status, reply.code, reply.headers["connection"]) == (400, "ai_invalid_request", "close")
        assert wire.is_closed()
    assert service.admin("GET", "/admin/keys") == before


@pytest.mark.parametrize("key", [ADMIN_KEY, None], ids=["with a key", "without one"])
def test_a_malformed_request_to_the_control_plane_is_answered_once_and_not_logged(tight, wire, key):
    logged = tight.log()
    reply = wire.send(head_of("POST", "/admin/keys", CHUNKED, key=key) + b"xyz\r\n").reply()
    assert (reply.status, reply.code) == (400, "ai_invalid_request")
    assert wire.is_closed()
    assert tight.request("GET", "/livez").status == 200
    assert tight.log() == logged


@pytest.mark.parametrize(
    "rest",
    [b"", b"garbage\0\r\n\r\n", b"3\r\nabc\r\n", b"2710\r\n" + b"x" * 5000, chunked(b"{}", b"x : y")],
    ids=["nothing", "garbage", "a chunk", "a part of a chunk", "a malformed trailer"],
)
def test_once_a_request_is_answered_early_nothing_that_follows_is_answered(tight, wire, rest):
    # Without a key it is refused before its body is there; it is closed by the time the body has to be.
    reply = wire.send(head_of("POST", "/admin/keys", CHUNKED, key=None)).reply()
    assert (reply.status, reply.code) == (401, "ai_unauthorized")
    wire.send(rest)
    assert wire.is_closed()


def test_the_rest_of_a_request_that_was_answered_early_is_passed_over(tight, tight_fake, tenant, wire):
    assert wire.send(head_of("POST", "/admin/keys", CHUNKED, key="th_unknown")).reply().status == 401
    hidden = chunked(request(tenant, max_tokens=7), size=1000)
    assert wire.send(hidden + request(tenant)).reply().status == 200
    assert [receipt.request["max_tokens"] for receipt in tight_fake.receipts()] == [400]
