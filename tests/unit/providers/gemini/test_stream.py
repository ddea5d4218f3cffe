import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.providers.base import OutcomeUnknown, Overloaded, ProviderError, Rejected, StreamReader
from tollhouse.providers.conversation import (
    Finished,
    PartBegun,
    PartEnded,
    PartGrew,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage

ADAPTER = GeminiAdapter(base_url="https://generativelanguage.googleapis.com", api_key="AIza0123456789")


def event(data: bytes) -> ServerSentEvent:
    return ServerSentEvent(raw=b"", data=data)


def chunk(*parts: Any, finish: str | None = None, usage: Any = None, **more: Any) -> ServerSentEvent:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more.pop("candidate", {})}
    if finish:
        candidate["finishReason"] = finish
    body: dict[str, Any] = {"candidates": [candidate], "responseId": "r-1", "modelVersion": "gemini-3-flash", **more}
    if usage is not None:
        body["usageMetadata"] = usage
    return event(json.dumps(body).encode())


def counted(prompt: int, made: int) -> dict[str, int]:
    return {"promptTokenCount": prompt, "candidatesTokenCount": made, "totalTokenCount": prompt + made}


def read(*events: ServerSentEvent) -> tuple[list[StreamEvent], StreamReader]:
    reader = ADAPTER.stream_reader()
    return [each for sent in events for each in reader.read(sent)], reader


def test_thinking_text_and_calls_come_in_order():
    events, reader = read(
        chunk({"text": "hm", "thought": True}),
        chunk({"text": "", "thought": True, "thoughtSignature": "c2ln"}),
        chunk({"text": "Hel"}, usage=counted(7, 1)),
        chunk({"text": "lo"}),
        chunk(
            {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "YQ=="},
            {"functionCall": {"id": "c2", "name": "g"}},
        ),
        chunk({"text": "", "thoughtSignature": "eA=="}, finish="STOP", usage=counted(7, 9)),
    )
    assert events == [
        PartBegun(0, Thinking("")),
        PartGrew(0, "hm"),
        PartEnded(0),
        PartBegun(1, Text("")),
        PartGrew(1, "Hel"),
        PartGrew(1, "lo"),
        PartEnded(1),
        PartBegun(2, ToolCall("c1", "f", "")),
        PartGrew(2, '{"a":1}', "YQ=="),
        PartEnded(2),
        PartBegun(3, ToolCall("c2", "g", "")),
        PartGrew(3, "{}"),
        PartEnded(3),
        Finished("tool_calls"),
    ]
    assert reader.usage == Usage(input_tokens=7, output_tokens=9)
    assert reader.provider_request_id == "r-1"


def test_usage_is_what_the_last_chunk_says_however_often_it_was_said_before():
    _, reader = read(chunk({"text": "a"}, usage=counted(100, 1)), chunk(usage=counted(60, 2)), chunk(finish="STOP"))
    assert reader.usage == Usage(input_tokens=60, output_tokens=2)


def test_text_after_the_last_usage_is_not_in_it():
    early = chunk({"text": "a"}, usage=counted(100, 1))
    assert not read(early, chunk(finish="STOP"))[1].is_behind
    assert read(early, chunk({"text": "b"}, finish="STOP"))[1].is_behind
    assert not read(early, chunk({"text": "b"}), chunk(finish="STOP", usage=counted(100, 2)))[1].is_behind


def test_no_usage_is_none_and_not_zero():
    assert read(chunk({"text": "a"}, finish="STOP"))[1].usage is None


def test_ids_are_made_up_once_for_each_call():
    call = {"functionCall": {"name": "f", "args": {}}}
    events, _ = read(chunk(call), chunk(call, finish="STOP"))
    ids = [each.part.id for each in events if isinstance(each, PartBegun) and isinstance(each.part, ToolCall)]
    assert len(set(ids)) == 2
    assert all(len(each) == 29 and each.startswith("call_") for each in ids)


def test_other_candidates_are_not_this_answer():
    other = {"candidates": [{"index": 1, "content": {"parts": [{"text": "B"}]}, "finishReason": "SAFETY"}]}
    events, _ = read(chunk({"text": "A"}), event(json.dumps(other).encode()), chunk(finish="MAX_TOKENS"))
    assert events == [PartBegun(0, Text("")), PartGrew(0, "A"), PartEnded(0), Finished("length")]


def test_a_blocked_prompt_ends_the_answer():
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    events, reader = read(event(json.dumps(blocked).encode()))
    assert events == [Finished("content_filter")]
    assert reader.usage == Usage(input_tokens=4)


@pytest.mark.parametrize(("version", "searches"), [("gemini-3.5-flash", 3), ("gemini-2.5-pro", 1), (None, 3)])
def test_searches_are_counted_as_the_generation_is_billed(version, searches):
    def grounded(*queries: str) -> dict[str, Any]:
        return {"groundingMetadata": {"webSearchQueries": list(queries)}}

    _, reader = read(
        chunk({"text": "a"}, candidate=grounded("x", ""), modelVersion=version),
        chunk(candidate=grounded("x", "y", "y"), finish="STOP", usage=counted(1, 1), modelVersion=version),
    )
    assert reader.usage == Usage(input_tokens=1, output_tokens=1, web_searches=searches)


def failed(code: Any, status: str = "", **more: Any) -> ServerSentEvent:
    error = {"error": {"code": code, "message": "No: AIza0123456789", "status": status}, **more}
    return event(json.dumps(error).encode())


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        (503, "UNAVAILABLE", Overloaded),
        (429, "RESOURCE_EXHAUSTED", Overloaded),
        (400, "INVALID_ARGUMENT", Rejected),
        (400, "FAILED_PRECONDITION", Overloaded),
        (200, "", OutcomeUnknown),
        ("503", "", OutcomeUnknown),
        (None, "", OutcomeUnknown),
    ],
)
def test_an_error_before_anything_is_free_where_it_says_what_it_is(code, status, outcome):
    with pytest.raises(outcome) as caught:
        read(failed(code, status))
    assert "AIza" not in str(caught.value)


@pytest.mark.parametrize("error", [b'{"error":"x"}', b'{"error":[]}', b'{"error":{"code":true}}'])
def test_an_error_of_another_shape_may_have_been_billed(error):
    with pytest.raises(OutcomeUnknown):
        read(event(error))


def test_an_error_with_usage_or_after_something_may_have_been_billed():
    with pytest.raises(OutcomeUnknown):
        read(failed(503, "UNAVAILABLE", usageMetadata={"promptTokenCount": 5}))
    with pytest.raises(OutcomeUnknown):
        read(chunk({"text": "a"}), failed(503, "UNAVAILABLE"))


@pytest.mark.parametrize(
    "args", [{"functionCall": {"name": "f", "args": [1]}}, {"functionCall": {"name": 1}}, {"functionCall": "f"}]
)
def test_a_call_that_cannot_be_read_is_an_unknown_outcome(args):
    with pytest.raises(OutcomeUnknown):
        read(chunk(args))


NAMES = (
    "candidates content parts text thought thoughtSignature functionCall name args id finishReason index error code "
    "groundingMetadata webSearchQueries usageMetadata promptTokenCount promptTokensDetails modality tokenCount "
    "totalTokenCount candidatesTokenCount cacheTokensDetails promptFeedback blockReason responseId modelVersion"
)
FIELDS = st.sampled_from(NAMES.split())
SCALARS = st.none() | st.booleans() | st.integers(-3, 600) | st.floats() | st.text(max_size=5) | st.just("IMAGE")
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5), max_leaves=25
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.lists(
            st.fixed_dictionaries(
                {"content": st.fixed_dictionaries({"parts": st.lists(st.dictionaries(FIELDS, DOCUMENTS), max_size=2)})},
                optional={"finishReason": SCALARS, "index": DOCUMENTS, "groundingMetadata": DOCUMENTS},
            ),
            max_size=2,
        ),
        "usageMetadata": st.dictionaries(FIELDS, st.integers(-1, 50) | DOCUMENTS),
        "error": DOCUMENTS,
    },
)


@given(st.lists(DOCUMENTS | CHUNKS, max_size=4), st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_only_known_failures_come_out(documents, garbage):
    reader = ADAPTER.stream_reader()
    for data in [*(json.dumps(each).encode() for each in documents), garbage, b"[" * 100_000]:
        with suppress(ProviderError):
            reader.read(event(data))
        assert reader.usage is None or reader.usage.input_tokens >= 0
