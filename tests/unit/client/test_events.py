"""Events, however their bytes arrive."""

from decimal import Decimal

import pytest

from harness.scripted import event
from tollhouse.client.errors import RateLimited, UnexpectedAnswer
from tollhouse.client.events import EventReader
from tollhouse.client.model import Completion, Delta, Tokens

ENVELOPE = {"content": "a\nb é", "input_tokens": 3, "output_tokens": 2, "cost_usd": 0.1, "request_id": "req_1"}
STREAM = (
    b": waiting\n\n"
    + event("delta", {"content": "a\n"})
    + event("of-a-later-version", {"x": 1})
    + b"id: 5\nretry: 10\nevent:delta\ndata:"
    + '{"content":\ndata: "b é"}\n\n'.encode()
    + event("usage", {"input_tokens": 3, "output_tokens": 2})
    + event("done", ENVELOPE)
    + event("delta", {"content": "after the end"})
)
EVENTS = [
    Delta("a\n"),
    Delta("b é"),
    Tokens(input_tokens=3, output_tokens=2),
    Completion(
        content="a\nb é",
        input_tokens=3,
        output_tokens=2,
        cost_usd=Decimal("0.1"),
        request_id="req_1",
        idempotency_key="k",
    ),
]


def reader(most=10_000):
    return EventReader("k", replayed=False, max_event_bytes=most)


def read(pieces):
    events = reader()
    return [event for piece in pieces for event in events.feed(piece)], events


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_events_come_out_the_same_wherever_they_are_cut(line_end, size):
    data = STREAM.replace(b"\n", line_end)
    found, events = read([data[at : at + size] for at in range(0, len(data), size)])
    assert found == EVENTS
    assert events.completion == EVENTS[-1]


def test_an_error_raises_after_what_came_before():
    events = reader()
    told = {"error": "ai_rate_limited", "message": "m", "request_id": "req_1"}
    found = events.feed(event("delta", {"content": "a"}) + event("error", told))
    assert next(found) == Delta("a")
    with pytest.raises(RateLimited) as caught:
        next(found)
    assert (caught.value.status, caught.value.request_id) == (429, "req_1")


@pytest.mark.parametrize("name", ["delta", "usage", "done", "error"])
@pytest.mark.parametrize("data", [b"{", b"[]", b'{"content": 5}', b"\xff\xfe", b"secret words"])
def test_what_cannot_be_read_is_refused_and_not_shown(name, data):
    with pytest.raises(UnexpectedAnswer, match=f"event '{name}' cannot be read") as caught:
        list(reader().feed(b"event: %b\ndata: %b\n\n" % (name.encode(), data)))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("data", [b"x" * 101, b"data: x\n" * 20, b":" + b"x" * 200])
def test_an_event_without_end_is_not_kept(data):
    with pytest.raises(UnexpectedAnswer, match="longer than max_answer_bytes, 100"):
        list(reader(100).feed(data))
