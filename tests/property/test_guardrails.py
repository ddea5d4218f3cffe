"""Guardrails: what is taken out comes back, and how a stream is cut makes no difference."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.config import Guardrails, OwnPattern
from tollhouse.guardrails.answers.session import Session
from tollhouse.guardrails.answers.stream import StreamGuard
from tollhouse.guardrails.answers.text import chain
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.inspection import Guard
from tollhouse.providers.sse import EventParser, encode_event

VALUES = [
    "alice@example.com",
    "4111 1111 1111 1111",
    "+256772123456",
    "0772 123456",
    "GB82 WEST 1234 5698 7654 32",
    "CM930121003EGE",
    'STAFF-"\\1',
    "a_b_c@x.example",
]
POLICY = Guardrails(pii="redact", hidden_characters="off", patterns={"staff": OwnPattern(pattern=r'STAFF-"\\\d')})
SECRETS = [
    "sk-proj-" + "a1B2" * 8,
    "AKIAABCD1234EFGH5678",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    "th_" + "a" * 43,
]
WORDS = [
    "hello ",
    "[EMAIL_1]",
    "[",
    "EMAIL_",
    "]",
    "\n",
    "**",
    "_",
    "`",
    "sk-",
    "eyJ",
    "-----BEGIN ",
    "<b>",
    "é ",
    "{",
    '"',
]
texts = st.lists(
    st.sampled_from([f" {value} " for value in VALUES]) | st.sampled_from(WORDS) | st.text(max_size=8), max_size=12
).map("".join)
# A key within a longer word is none.
answers = st.lists(
    st.sampled_from([*(f" {secret}" for secret in SECRETS), *WORDS, "[CARD_1]", "# x\n"]) | st.text(max_size=6),
    max_size=12,
).map("".join)


def cut(text, sizes):
    at = 0
    for size in sizes:
        yield text[at : at + size]
        at += size
    yield text[at:]


@given(st.lists(texts, min_size=1, max_size=4), st.lists(st.integers(1, 9), max_size=40))
def test_what_was_redacted_is_restored_and_no_value_is_left(contents, sizes):
    body = {"messages": [{"role": "user", "content": content} for content in contents]}
    inspected = Guard(POLICY).inspect(body)
    for turn, content in zip(inspected.body["messages"], contents, strict=True):
        assert not any(f" {value} " in turn["content"] for value in VALUES)
        restoring = chain(POLICY, inspected.vault, Findings("output"), "content")
        assert "".join([*map(restoring.feed, cut(turn["content"], sizes)), restoring.end()]) == content


@given(answers, st.lists(st.integers(1, 9), max_size=60), st.sampled_from(["content", "json", "other"]), st.booleans())
def test_a_text_is_the_same_however_it_comes(answer, sizes, kind, strips):
    policy = Guardrails(pii="redact", secrets="redact", markup="redact" if strips else "off")
    vault = Guard(policy).inspect({"messages": [{"role": "user", "content": "a@b.example 4111111111111111"}]}).vault
    counted, counted_whole = Findings("output"), Findings("output")
    pieces = chain(policy, vault, counted, kind)
    came = "".join([*map(pieces.feed, cut(answer, sizes)), pieces.end()])
    assert came == chain(policy, vault, counted_whole, kind).whole(answer)
    assert set(counted) == set(counted_whole)
    assert not any(f" {secret}" in came for secret in SECRETS)


def chat_events(pieces):
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "x_vendor": {"kept": 1}}
    yield "", {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    for piece in pieces:
        yield "", {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
    yield "", {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield "", "[DONE]"


def chat_text(events):
    return "".join(e["choices"][0]["delta"].get("content") or "" for _, e in events if isinstance(e, dict))


def messages_events(pieces):
    yield "message_start", {"type": "message_start", "message": {"id": "m", "content": []}}
    yield (
        "content_block_start",
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )
    for piece in pieces:
        delta = {"type": "text_delta", "text": piece}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    yield (
        "message_delta",
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    )
    yield "message_stop", {"type": "message_stop"}


def messages_text(events):
    return "".join(e["delta"].get("text", "") for _, e in events if e["type"] == "content_block_delta")


def responses_events(pieces):
    at, number = {"item_id": "i", "output_index": 0, "content_index": 0}, 0
    for piece in pieces:
        yield (
            "response.output_text.delta",
            {"type": "response.output_text.delta", "sequence_number": number, **at, "delta": piece},
        )
        number += 1
    text = "".join(pieces)
    yield (
        "response.output_text.done",
        {"type": "response.output_text.done", "sequence_number": number, **at, "text": text},
    )
    item = {"type": "message", "id": "i", "content": [{"type": "output_text", "text": text, "annotations": []}]}
    done = {"type": "response.completed", "sequence_number": number + 1, "response": {"id": "r", "output": [item]}}
    yield "response.completed", done


def responses_text(events):
    text = "".join(e["delta"] for _, e in events if e["type"] == "response.output_text.delta")
    assert [e["sequence_number"] for _, e in events] == list(range(len(events)))
    assert [e["text"] for _, e in events if e["type"] == "response.output_text.done"] == [text]
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == text
    return text


def gemini_events(pieces):
    for piece in pieces:
        yield (
            "",
            {"candidates": [{"content": {"parts": [{"text": piece}], "role": "model"}, "index": 0}], "responseId": "r"},
        )
    last = {"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0, "finishReason": "STOP"}
    yield "", {"candidates": [last], "usageMetadata": {"promptTokenCount": 1}, "responseId": "r"}


def gemini_text(events):
    assert events[-1][1]["usageMetadata"]
    return "".join(p["text"] for _, e in events for p in e["candidates"][0]["content"]["parts"])


def native_events(pieces):
    for piece in pieces:
        yield "delta", {"content": piece}
    yield "usage", {"input_tokens": 1}
    yield "done", {"content": "".join(pieces), "cost_usd": 0.5}


def native_text(events):
    text = "".join(e["content"] for name, e in events if name == "delta")
    assert events[-1][1]["content"] == text
    return text


STREAMS = {
    "chat": (chat_events, chat_text),
    "messages": (messages_events, messages_text),
    "responses": (responses_events, responses_text),
    "gemini": (gemini_events, gemini_text),
    "native": (native_events, native_text),
}


@pytest.mark.parametrize("api", STREAMS)
@given(answer=answers, sizes=st.lists(st.integers(1, 9), max_size=40))
def test_a_stream_says_what_the_whole_answer_would_in_every_format(api, answer, sizes):
    write, read = STREAMS[api]
    policy = Guardrails(pii="redact", secrets="redact")
    vault = Guard(policy).inspect({"messages": [{"role": "user", "content": "a@b.example 4111111111111111"}]}).vault
    session = Session(policy, vault, None, is_json=False)
    guard = StreamGuard(session, api)
    out = b"".join(
        guard.feed(encode_event(data.encode() if isinstance(data, str) else json.dumps(data).encode(), name))
        for name, data in write([piece for piece in cut(answer, sizes) if piece] or ["x"])
    )
    out += guard.end("stop")
    events = [
        (event.name, event.data.decode() if event.data == b"[DONE]" else json.loads(event.data))
        for event in EventParser(1 << 20).feed(out)
    ]
    expected = Findings("output")
    assert read(events) == chain(policy, vault, expected, "content").whole(answer or "x")
    assert set(session.findings) == set(expected)


@given(st.text(max_size=300))
def test_no_text_makes_a_guard_fail(text):
    policy = Guardrails(
        normalize="nfkc",
        hidden_characters="redact",
        prompt_injection="flag",
        pii="redact",
        secrets="redact",
        markup="redact",
    )
    inspected = Guard(policy).inspect({"messages": [{"role": "user", "content": text}]})
    chain(policy, inspected.vault, Findings("output"), "content").whole(text)
