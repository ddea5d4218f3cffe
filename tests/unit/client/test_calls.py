"""Either client before a scripted server: what is sent how often, and what the caller gets."""

import email.utils
import json
import time
from decimal import Decimal

import pytest

from harness.scripted import answer, completion, error, hang_up, raw, reset, silence
from tollhouse.client import errors
from tollhouse.client.model import Completion

CALL = {"model": "m", "user_message": "Hello"}
TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"content": "Hel'
TRUNCATED_CHUNKS = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"con'
PAGE = "<html><h1>502 Bad Gateway</h1></html>"


def gateway(status):
    return answer(status, PAGE, headers={"Content-Type": "text/html"})


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr("tollhouse.client.request.GRACE_S", 0.1)


def test_an_answer(server, client):
    answered = client.complete(**CALL, idempotency_key="job-1")
    assert answered == Completion(
        content="Hello",
        input_tokens=3,
        output_tokens=2,
        cost_usd=Decimal("0.000598"),
        request_id="req_1",
        idempotency_key="job-1",
    )
    assert server.requests[0].head.startswith("POST /ai/complete HTTP/1.1\r\n")
    assert server.requests[0].header("authorization") == "Bearer tk_of_the_tests"
    assert json.loads(server.requests[0].body) == {**CALL, "timeout_s": 60.0}


def test_an_answer_of_a_later_version_and_one_that_is_replayed(server, client):
    body = {"content": "x", "input_tokens": 1, "output_tokens": 1, "cost_usd": 1e-9, "request_id": "r", "novel": [1]}
    server.script(answer(200, body, headers={"Idempotent-Replayed": "true"}))
    answered = client.complete(**CALL)
    assert answered.replayed
    assert answered.cost_usd == Decimal("0.000000001")


@pytest.mark.parametrize(
    "step",
    [
        error(503, "ai_unavailable"),
        error(429, "ai_rate_limited"),
        error(408, "ai_request_timeout"),
        error(409, "ai_idempotency_in_flight"),
        error(504, "ai_timeout"),
        gateway(502),
        gateway(503),
        gateway(504),
        gateway(429),
        hang_up,
        reset,
        raw(TRUNCATED),
        raw(TRUNCATED_CHUNKS),
    ],
)
def test_what_may_be_tried_again_is_with_the_same_bytes_and_the_same_key(server, client, step):
    server.script(step, completion())
    assert client.complete(**CALL).content == "Hello"
    first, second = server.requests
    assert first.header("idempotency-key")
    assert (second.head, second.body) == (first.head, first.body)
    assert len(client.pauses_s) == 1
    client.complete(**CALL)
    assert server.requests[2].header("idempotency-key") != first.header("idempotency-key")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (error(401, "ai_unauthorized"), errors.Unauthorized),
        (error(402, "ai_budget_exceeded"), errors.BudgetExceeded),
        (error(402, "ai_budget_exceeded", {"Retry-After": 1}), errors.BudgetExceeded),
        (error(402, "ai_of_a_later_version"), errors.BudgetExceeded),
        (error(403, "ai_module_inactive"), errors.ModuleInactive),
        (error(404, "ai_model_unknown"), errors.ModelUnknown),
        (error(405, "ai_method_not_allowed"), errors.MethodNotAllowed),
        (error(413, "ai_request_too_large"), errors.RequestTooLarge),
        (error(422, "ai_idempotency_mismatch"), errors.IdempotencyMismatch),
        (error(422, "ai_provider_rejected"), errors.ProviderRejected),
        (error(431, "ai_headers_too_large"), errors.HeadersTooLarge),
        (error(500, "ai_internal_error"), errors.InternalError),
        (gateway(500), errors.GatewayError),
        (gateway(404), errors.UnexpectedAnswer),
        (gateway(200), errors.UnexpectedAnswer),
        (answer(301, "", headers={"Location": "http://127.0.0.1:1/elsewhere"}), errors.UnexpectedAnswer),
        (answer(200, "{"), errors.UnexpectedAnswer),
        (answer(200, {"content": "secret words"}), errors.UnexpectedAnswer),
        (answer(200, b"\xff"), errors.UnexpectedAnswer),
        (answer(200, b'{"content":"\xff"}'), errors.UnexpectedAnswer),
        (answer(200, "[" * 100_000), errors.UnexpectedAnswer),
        (answer(204, "", headers={"Content-Length": None}), errors.UnexpectedAnswer),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), errors.UnexpectedAnswer),
        (raw(b"\x00\x01\x02" * 100), errors.UnexpectedAnswer),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), errors.UnexpectedAnswer),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), errors.UnexpectedAnswer),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000), errors.UnexpectedAnswer),
    ],
)  # fmt: skip
def test_what_may_not_be_tried_again_is_not(server, client, step, expected):
    server.script(step)
    with pytest.raises(errors.TollhouseError) as caught:
        client.complete(**CALL, idempotency_key="job-1")
    assert type(caught.value) is expected
    assert caught.value.idempotency_key == "job-1"
    assert len(server.requests) == 1
    assert client.pauses_s == []
    assert "secret" not in str(caught.value)


def test_an_error_carries_all_that_is_known_of_it(server, make):
    server.script(error(429, "ai_rate_limited", {"Retry-After": 7}))
    with pytest.raises(errors.RateLimited) as caught:
        make(timeout_s=5).complete(**CALL, idempotency_key="job-1")
    found = caught.value
    assert (found.status, found.code, found.message) == (429, "ai_rate_limited", "it is ai_rate_limited")
    assert (found.request_id, found.retry_after_s, found.idempotency_key) == ("req_scripted", 7.0, "job-1")


@pytest.mark.parametrize("text", ["3", "2.5", "date", "Sun, 99 Foo", "-1", "nan", "inf", ""])
def test_a_retry_after_is_kept(server, make, text):
    given = email.utils.formatdate(time.time() + 30, usegmt=True) if text == "date" else text
    server.script(error(503, "ai_unavailable", {"Retry-After": given}), completion())
    client = make(uniform=lambda low, high: low)
    client.complete(**CALL)
    (pause_s,) = client.pauses_s
    if text == "date":
        assert 20 < pause_s <= 30
    else:
        assert pause_s == {"3": 3, "2.5": 2.5}.get(text, 0.125)


def test_tries_end_with_the_last_failure(server, make):
    busy = error(503, "ai_unavailable", {"Connection": "close"}, keep=False)
    server.script(busy, hang_up, busy)
    client = make(breaker=None)
    with pytest.raises(errors.Unavailable):
        client.complete(**CALL)
    assert len(server.requests) == 4
    assert len({(request.body, request.header("idempotency-key")) for request in server.requests}) == 1


def test_a_timeout_is_tried_again_once(server, client):
    server.script(error(504, "ai_timeout"))
    with pytest.raises(errors.CallTimeout):
        client.complete(**CALL)
    assert len(server.requests) == 2


def test_nobody_listens(make):
    client = make("http://127.0.0.1:9")
    with pytest.raises(errors.NotConnected, match=r"127\.0\.0\.1:9 cannot be reached"):
        client.complete(**CALL)
    assert len(client.pauses_s) == 3


def test_a_server_that_never_answers_is_left_after_the_timeout(server, make):
    server.script(silence)
    client = make(timeout_s=0.2)
    with pytest.raises(errors.DeadlineExceeded):
        client.complete(**CALL)
    assert len(server.requests) == 1


def test_a_server_that_sends_a_byte_now_and_then_is_left_after_the_timeout(server, make):
    def trickle(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.02)
        return False

    server.script(trickle)
    with pytest.raises(errors.DeadlineExceeded):
        make(timeout_s=0.2).complete(**CALL)


def test_an_answer_without_end_is_not_kept(server, make):
    server.script(answer(200, "x" * 200_000))
    with pytest.raises(errors.UnexpectedAnswer, match="longer than max_answer_bytes, 1000"):
        make(max_answer_bytes=1000).complete(**CALL)


def test_what_is_sent_ahead_of_an_answer_is_passed_over(server, client):
    def hints_first(connection):
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        return completion()(connection)

    server.script(hints_first)
    assert client.complete(**CALL).content == "Hello"


def test_the_circuit_opens_and_nothing_is_sent_then(server, client):
    server.script(hang_up)
    for _ in range(2):
        with pytest.raises(errors.ConnectionLost):
            client.complete(**CALL)
    # Four tries, and one, after which the circuit is open.
    assert len(server.requests) == 5
    assert client.client.circuit == "open"
    with pytest.raises(errors.CircuitOpen) as caught:
        client.complete(**CALL)
    assert caught.value.retry_after_s
    assert len(server.requests) == 5


def test_a_busy_tollhouse_does_not_open_the_circuit(server, client):
    server.script(error(503, "ai_unavailable"))
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            client.complete(**CALL)
    assert client.client.circuit == "closed"


def test_usage_is_tried_again_without_a_key(server, client):
    total = {"period": "2026-04", "tenant_id": 42, "calls": 2, "tokens": 30, "cost_usd": 0.5}
    server.script(hang_up, answer(200, total))
    assert client.usage(42, period="2026-04").cost_usd == Decimal("0.5")
    assert server.requests[1].head.startswith("GET /ai/usage?tenant_id=42&period=2026-04 HTTP/1.1")
    assert server.requests[1].header("idempotency-key") is None
    assert server.requests[1].header("content-length") is None


@pytest.mark.parametrize("body", [{}, {"users": 5}, {"period": "2026-04", "tenant_id": 42, "users": [{}]}, []])
def test_usage_of_another_form_is_refused(server, client, body):
    server.script(answer(200, body))
    with pytest.raises(errors.UnexpectedAnswer):
        client.usage(42, group_by="user")


def test_an_argument_that_cannot_be_meant_sends_nothing(server, client):
    with pytest.raises(TypeError, match="max_token"):
        client.complete(**CALL, max_token=5)
    with pytest.raises(ValueError, match="idempotency_key"):
        client.complete(**CALL, idempotency_key="a\nb")
    assert server.connections == 0


def test_the_key_is_not_shown(client):
    assert "tk_of_the_tests" not in repr(client.client)
