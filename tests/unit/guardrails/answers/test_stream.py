"""A stream's events under guard: what is not concerned passes byte for byte, and what was held back is not lost."""

import json

import pytest

from tollhouse.config import Guardrails
from tollhouse.guardrails.answers.session import Session
from tollhouse.guardrails.answers.stream import StreamGuard
from tollhouse.guardrails.inspection import Guard
from tollhouse.providers.sse import EventParser

POLICY = Guardrails(pii="redact", secrets="redact")
KEY = "sk-proj-" + "a1B2" * 8


def guarding(api="chat", policy=POLICY):
    vault = Guard(policy).inspect({"messages": [{"role": "user", "content": "alice@example.com"}]}).vault
    return StreamGuard(Session(policy, vault, None, is_json=False), api)


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    # Spaces and order are the provider's own.
    data = json.dumps({"choices": [choice], "id": "c", **more}, indent=1).replace("\n", " ")
    return f"data:  {data}\n\n".encode()


def deltas(data):
    events = [json.loads(event.data) for event in EventParser(1 << 20).feed(data) if b"{" in event.data]
    return [choice["delta"] for event in events for choice in event["choices"]]


def test_events_with_nothing_to_find_pass_byte_for_byte():
    stream = [
        b": a comment\n\n",
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "plain [x] text"}, x_vendor={"kept": 1.50}),
        chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": '{"a": 1}'}}]}),
        chunk({}, "stop"),
        b"data: [DONE]\n\n",
    ]
    guard = guarding()
    assert [guard.feed(each) for each in stream] == stream
    assert guard.end("stop") == b""


def test_what_is_held_back_comes_before_the_answers_end():
    guard = guarding()
    assert deltas(guard.feed(chunk({"content": "to [EMA"}))) == [{"content": "to "}]
    assert deltas(guard.feed(chunk({}, "stop"))) == [{"content": "[EMA"}, {}]


def test_a_transcript_of_sound_is_a_text_and_the_sound_itself_passes():
    guard = guarding()
    out = guard.feed(chunk({"audio": {"id": "a", "data": "UklGRg==", "transcript": "to [EMAIL"}}))
    out += guard.feed(chunk({"audio": {"data": "AAAA", "transcript": "_1]"}}))
    out += guard.feed(chunk({"audio": {"transcript": " and [EMA"}})) + guard.feed(chunk({}, "stop"))
    audio = [delta["audio"] for delta in deltas(out) if "audio" in delta]
    assert "".join(each.get("transcript", "") for each in audio) == "to alice@example.com and [EMA"
    assert [each["data"] for each in audio if "data" in each] == ["UklGRg==", "AAAA"]


def test_the_texts_of_several_answers_do_not_mix():
    guard = guarding()
    first, second = chunk({"content": "[EMAIL"}), chunk({"content": "_1]"}).replace(b'"index": 0', b'"index": 1', 1)
    assert deltas(guard.feed(first) + guard.feed(second)) == [{"content": "_1]"}]
    assert deltas(guard.feed(chunk({"content": "_1]"}))) == [{"content": "alice@example.com"}]


@pytest.mark.parametrize("at_once", [True, False])
def test_nothing_follows_what_is_blocked(at_once):
    guard = guarding(policy=Guardrails(secrets="block"))
    events = [chunk({"content": "It is "}), chunk({"content": KEY}), chunk({"content": " now"}), chunk({}, "stop")]
    out = guard.feed(b"".join(events)) if at_once else b"".join(map(guard.feed, events))
    assert deltas(out) == [{"content": "It is "}]
    assert guard.end("stop") == b""
    assert guard.blocked == "secrets: api_key (1)"
