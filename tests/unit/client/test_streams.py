"""Streamed answers: their events in order, and every way in which they can end early."""

from decimal import Decimal

import pytest

from harness.scripted import answer, completion, error, event, events, hang_up, silence
from tollhouse.client import errors
from tollhouse.client.model import Completion, Delta, StreamEvent, Tokens

CALL = {"model": "m", "user_message": "Hello"}
ENVELOPE = {"content": "ab", "input_tokens": 3, "output_tokens": 2, "cost_usd": 0.1, "request_id": "req_1"}
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
A, B = event("delta", {"content": "a"}), event("delta", {"content": "b"})
END = event("usage", USAGE) + event("done", ENVELOPE)
WHOLE = events(A, B, END)
LATE_ERROR = event("error", {"error": "ai_unavailable", "message": "m", "request_id": "req_1"})


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr("tollhouse.client.request.GRACE_S", 0.1)


def whole(key="k"):
    return [
        Delta("a"),
        Delta("b"),
        Tokens(input_tokens=3, output_tokens=2, total_tokens=5),
        Completion(
            content="ab",
            input_tokens=3,
            output_tokens=2,
            cost_usd=Decimal("0.1"),
            request_id="req_1",
            idempotency_key=key,
        ),
    ]


@pytest.mark.parametrize(
    "step",
    [WHOLE, events(A + B + END), events(b": waiting\n\n", A[:5], A[5:], B, b": waiting\n\n", END[:30], END[30:])],
)
def test_a_stream_and_the_connection_is_used_again(server, client, step):
    server.script(step)
    assert client.events(**CALL, idempotency_key="k") == whole()
    assert client.events(**CALL, idempotency_key="k") == whole()
    assert server.connections == 1
    assert server.requests[0].header("accept") == "text/event-stream"
    assert b'"stream":true' in server.requests[0].body


@pytest.mark.parametrize(
    "step",
    [
        error(503, "ai_unavailable"),
        error(429, "ai_rate_limited"),
        hang_up,
        events(end=b""),
        events(b": waiting\n\n", end=b""),
        events(),
        events(LATE_ERROR),
        events(b": waiting\n\n", LATE_ERROR),
    ],
)
def test_before_its_first_event_it_is_tried_again_as_any_call(server, client, step):
    server.script(step, WHOLE)
    assert client.events(**CALL, idempotency_key="k") == whole()
    first, second = server.requests
    assert (first.head, first.body) == (second.head, second.body)


@pytest.mark.parametrize("code", ["ai_budget_exceeded", "ai_internal_error", "ai_invalid_request"])
def test_a_refusal_as_the_first_event_is_not_tried_again(server, client, code):
    server.script(events(event("error", {"error": code, "message": "m"})))
    with pytest.raises(errors.ApiError) as caught:
        client.events(**CALL, idempotency_key="k")
    assert (caught.value.code, caught.value.idempotency_key) == (code, "k")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (events(A, LATE_ERROR), errors.Unavailable),
        (events(A + LATE_ERROR), errors.Unavailable),
        (events(A, end=b""), errors.StreamInterrupted),
        (events(A + B[:10]), errors.StreamInterrupted),
        (events(A, event("usage", USAGE)), errors.StreamInterrupted),
        (events(A, b"event: delta\ndata: {\n\n"), errors.StreamInterrupted),
        (events(A, end=b"zz\r\n"), errors.StreamInterrupted),
    ],
)
def test_after_its_first_event_it_is_never_tried_again(server, client, step, expected):
    server.script(step, WHOLE)
    seen: list[StreamEvent] = []
    with pytest.raises(errors.TollhouseError) as caught:
        client.events(seen, **CALL, idempotency_key="k")
    assert type(caught.value) is expected
    assert caught.value.idempotency_key == "k"
    assert seen[0] == Delta("a")
    assert not any(isinstance(each, Completion) for each in seen)
    assert len(server.requests) == 1


def test_what_comes_after_the_end_changes_nothing(server, client):
    server.script(events(A, B, END, LATE_ERROR), events(A, B, END, end=b""), WHOLE)
    for _ in range(3):
        assert client.events(**CALL, idempotency_key="k") == whole()
    assert len(server.requests) == 3


def test_silence_within_a_stream_ends_it(server, make):
    def falls_silent(connection):
        events(A, end=b"")(connection)
        return silence(connection)

    server.script(falls_silent)
    seen: list[StreamEvent] = []
    with pytest.raises(errors.StreamInterrupted):
        make(stream_pause_timeout_s=0.1).events(seen, **CALL)
    assert seen == [Delta("a")]


def test_a_stream_that_never_ends_is_left(server, make):
    server.script(events(*[A] * 500, pause_s=0.02))
    with pytest.raises(errors.StreamInterrupted):
        make(stream_timeout_s=0.2).events(**CALL)


def test_comments_do_not_put_off_the_deadline_of_the_first_event(server, make):
    server.script(events(*[b": waiting\n\n"] * 500, pause_s=0.02))
    with pytest.raises(errors.DeadlineExceeded):
        make(timeout_s=0.2).events(**CALL)
    assert len(server.requests) == 1


def test_a_stream_that_is_left_gives_its_connection_up(server, make):
    server.script(events(A, B, pause_s=0.02, end=b""), completion())
    client = make(max_connections=1)
    assert client.events(leave_after=1, **CALL) == [Delta("a")]
    assert client.complete(**CALL).content == "Hello"
    assert server.connections == 2


def test_an_answer_that_is_no_stream_is_refused(server, client):
    server.script(answer(200, ENVELOPE))
    with pytest.raises(errors.UnexpectedAnswer, match="no events"):
        client.events(**CALL)
    assert len(server.requests) == 1


def test_an_event_that_is_too_long_is_not_kept(server, make):
    server.script(events(b"data: " + b"x" * 5000))
    with pytest.raises(errors.UnexpectedAnswer, match="max_answer_bytes"):
        make(max_answer_bytes=1000).events(**CALL)
