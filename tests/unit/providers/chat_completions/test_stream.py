import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.providers.base import OutcomeUnknown, Overloaded, ProviderError, Rejected
from tollhouse.providers.conversation import Finished, PartBegun, PartEnded, PartGrew, Text, Thinking, ToolCall
from tollhouse.providers.deepseek import DeepSeekAdapter
from tollhouse.providers.openai.adapter import OpenAIAdapter
from tollhouse.providers.sse import EventParser, ServerSentEvent, encode_event
from tollhouse.providers.usage import Usage

KEY = "sk-proj-0123456789"
OPENAI = OpenAIAdapter(base_url="https://api.openai.com/v1", api_key=KEY)
LOCAL = OpenAIAdapter(base_url="http://127.0.0.1:8000/v1", api_key="")
DEEPSEEK = DeepSeekAdapter(base_url="https://api.deepseek.com", api_key=KEY)
DONE = b"data: [DONE]\n\n"


def chunk(finish: str | None = None, index: int = 0, usage: Any = None, **delta: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return encode_event(json.dumps({"id": "c-1", "choices": [choice], "usage": usage}).encode())


def last(**usage: Any) -> bytes:
    return encode_event(json.dumps({"id": "c-1", "choices": [], "usage": usage}).encode())


def call(index: int | None = None, call_id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    function = {k: v for k, v in {"name": name, "arguments": arguments}.items() if v is not None}
    return {k: v for k, v in {"index": index, "id": call_id, "function": function}.items() if v is not None}


def read(*pieces: bytes, adapter: Any = OPENAI) -> tuple[list[Any], Any]:
    reader = adapter.stream_reader()
    return [e for event in EventParser(1 << 20).feed(b"".join(pieces)) for e in reader.read(event)], reader


def test_text_is_one_part_and_the_usage_comes_last():
    events, reader = read(
        chunk(role="assistant", content=""),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk("stop"),
        last(prompt_tokens=9, completion_tokens=2),
        DONE,
    )
    assert events == [
        PartBegun(0, Text("")),
        PartGrew(0, "Hel"),
        PartGrew(0, "lo"),
        PartEnded(0),
        Finished("stop"),
    ]
    assert reader.usage == Usage(input_tokens=9, output_tokens=2)
    assert reader.provider_request_id == "c-1"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_ends_where_the_text_begins(name):
    events, _ = read(chunk(None, 0, None, **{name: "hm"}), chunk(content="Hi"), chunk("length"), DONE)
    assert events == [
        PartBegun(0, Thinking("")),
        PartGrew(0, "hm"),
        PartEnded(0),
        PartBegun(1, Text("")),
        PartGrew(1, "Hi"),
        PartEnded(1),
        Finished("length"),
    ]


def test_parallel_calls_overlap_and_are_told_apart_by_their_index():
    events, _ = read(
        chunk(tool_calls=[call(0, "a", "sum", "")]),
        chunk(tool_calls=[call(1, "b", "now", "")]),
        chunk(tool_calls=[call(0, arguments='{"x":')]),
        chunk(tool_calls=[call(0, arguments="1}")]),
        chunk("tool_calls"),
        DONE,
    )
    assert events == [
        PartBegun(0, ToolCall("a", "sum", "")),
        PartBegun(1, ToolCall("b", "now", "")),
        PartGrew(0, '{"x":'),
        PartGrew(0, "1}"),
        PartEnded(0),
        PartGrew(1, "{}"),
        PartEnded(1),
        Finished("tool_calls"),
    ]


@pytest.mark.parametrize("index", [0, None])
def test_whole_calls_without_an_index_of_their_own_are_several(index):
    events, _ = read(
        chunk(tool_calls=[call(index, "a", "sum", '{"x":1}'), call(index, "b", "sum", {"x": 2})]), chunk("stop"), DONE
    )
    assert [e.part for e in events if isinstance(e, PartBegun)] == [ToolCall("a", "sum", ""), ToolCall("b", "sum", "")]
    assert [e.text for e in events if isinstance(e, PartGrew)] == ['{"x":1}', '{"x":2}']
    assert events[-1] == Finished("tool_calls"), "an answer that calls tools ends for them"


def test_a_call_without_an_id_is_given_one_and_begins_with_its_name():
    events, _ = read(
        chunk(tool_calls=[call(0, arguments='{"a"')]),
        chunk(tool_calls=[call(0, name="f", arguments=":1}")]),
        chunk("tool_calls"),
        DONE,
    )
    assert isinstance(events[0].part, ToolCall)
    assert events[0].part.id.startswith("call_")
    assert events[1] == PartGrew(0, '{"a":1}')


def test_googles_signature_comes_with_its_call():
    signed = call(0, "a", "f", "{}") | {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    assert PartGrew(0, "{}", "c2ln") in read(chunk(tool_calls=[signed]))[0]


def test_a_refusal_is_text_and_ends_as_one():
    events, _ = read(chunk(refusal="I can"), chunk(refusal="not."), chunk("stop"), DONE)
    assert events == [
        PartBegun(0, Text("")),
        PartGrew(0, "I can"),
        PartGrew(0, "not."),
        PartEnded(0),
        Finished("refusal"),
    ]


def test_several_choices_end_together_and_the_first_is_told():
    events, reader = read(
        chunk(index=0, content="A"),
        chunk(index=1, content="B"),
        chunk("stop", index=0),
        chunk(index=1, content="C"),
        chunk("length", index=1),
        last(prompt_tokens=1, completion_tokens=3),
        DONE,
    )
    assert events == [PartBegun(0, Text("")), PartGrew(0, "A"), PartEnded(0), Finished("stop")]
    assert reader.usage == Usage(input_tokens=1, output_tokens=3)


def test_of_a_usage_in_every_chunk_the_last_holds():
    _, reader = read(
        chunk(content="A", usage={"prompt_tokens": 5, "completion_tokens": 1}),
        chunk("stop", usage={"prompt_tokens": 5, "completion_tokens": 2}),
        DONE,
        adapter=LOCAL,
    )
    assert reader.usage == Usage(input_tokens=5, output_tokens=2)


def test_text_after_the_last_usage_is_not_in_it():
    early = chunk(content="A", usage={"prompt_tokens": 5, "completion_tokens": 1})
    assert read(early, chunk(content="B"), DONE)[1].is_behind
    assert not read(early, chunk("stop"), DONE)[1].is_behind
    assert not read(early, chunk(content="B"), last(prompt_tokens=5, completion_tokens=2), DONE)[1].is_behind


@pytest.mark.parametrize(
    ("model", "adapter", "thinks_unseen"),
    [("gpt-5-2025-08-07", OPENAI, True), ("o3", OPENAI, True), ("gpt-4o", OPENAI, False), ("gpt-5", LOCAL, False)],
)
def test_openais_reasoning_models_think_unseen(model, adapter, thinks_unseen):
    named = encode_event(json.dumps({"model": model, "choices": [{"index": 0, "delta": {"content": "A"}}]}).encode())
    assert read(named, adapter=adapter)[1].thinks_unseen is thinks_unseen


def test_a_last_usage_that_cannot_be_read_does_not_leave_an_earlier_one_standing():
    events, reader = read(
        chunk(content="A", usage={"prompt_tokens": 5, "completion_tokens": 1}), chunk("stop", usage={"x": 1}), DONE
    )
    assert reader.usage is None
    assert events[-1] == Finished("stop")


def test_deepseeks_own_counts_are_read_from_its_last_chunk():
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}
    _, reader = read(b": keep-alive\n\n", chunk(content="A"), chunk("stop", usage=usage), DONE, adapter=DEEPSEEK)
    assert reader.usage == Usage(input_tokens=6, cached_input_tokens=4, output_tokens=5)


def test_the_end_of_a_stream_ends_an_answer_without_a_reason():
    assert read(chunk(content="A"), DONE)[0][-2:] == [PartEnded(0), Finished("other")]
    assert read(chunk(tool_calls=[call(0, "a", "f", "{}")]), DONE)[0][-1] == Finished("tool_calls")
    assert read(DONE)[0] == [], "an empty stream is no answer"


def test_a_search_is_counted_where_openai_bills_it_so():
    searched = {
        "id": "c",
        "model": "gpt-4o-search-preview-2025-03-11",
        "choices": [{"index": 0, "delta": {"content": "A"}}],
    }
    pieces = encode_event(json.dumps(searched).encode()), last(prompt_tokens=1, completion_tokens=1)
    assert read(*pieces)[1].usage == Usage(input_tokens=1, output_tokens=1, web_searches=1)
    assert read(*pieces, adapter=LOCAL)[1].usage == Usage(input_tokens=1, output_tokens=1)


def failing(error: Any, **more: Any) -> bytes:
    return encode_event(json.dumps({"error": error, **more}).encode())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"message": "busy", "type": "server_error"}, Overloaded),
        ({"message": "busy", "code": 429}, Overloaded),
        ("failed", Overloaded),
        ({"message": "too long", "code": 400}, Rejected),
        ({"message": "too long", "type": "invalid_request_error", "code": None}, Rejected),
        ({"message": "no such", "type": "invalid_request_error", "code": "model_not_found"}, Overloaded),
    ],
)
def test_an_error_at_the_beginning_is_free(error, outcome):
    with pytest.raises(outcome) as caught:
        read(failing(error))
    assert KEY not in str(caught.value)


def test_an_error_event_by_name_is_one():
    with pytest.raises(Overloaded):
        read(b'event: error\ndata: {"message": "busy"}\n\n')


def test_an_error_after_a_beginning_or_with_usage_may_be_billed():
    with pytest.raises(OutcomeUnknown, match="broke the answer off"):
        read(chunk(role="assistant"), failing({"message": "busy"}))
    with pytest.raises(OutcomeUnknown, match="reported usage"):
        read(failing({"message": "busy"}, usage={"prompt_tokens": 3}))


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"7", b'"x"', b'{"choices":7}', b'{"choices":[7]}', b"\xff", b"[" * 9999]
)
def test_what_cannot_be_read_may_be_billed(data):
    with pytest.raises(OutcomeUnknown):
        OPENAI.stream_reader().read(ServerSentEvent(data, data))


FIELDS = (
    "choices delta content refusal reasoning reasoning_content tool_calls index id function name arguments usage error "
    "finish_reason type text thinking extra_content google thought_signature prompt_tokens completion_tokens code "
    "message object annotations model"
)
NAMES = st.sampled_from(FIELDS.split())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 600) | st.sampled_from(["stop", "a", "{}", "text", "thinking", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=15,
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(
            st.fixed_dictionaries(
                {"delta": st.dictionaries(NAMES, JSON)}, optional={"finish_reason": JSON, "index": JSON}
            ),
            max_size=2,
        )
        | JSON,
        "usage": JSON,
        "id": JSON,
        "model": JSON,
        "error": st.none() | JSON,
    },
)


@given(st.lists(CHUNKS | JSON, max_size=6))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_only_known_failures_and_well_formed_events_go_out(documents):
    for adapter in (OPENAI, DEEPSEEK):
        reader = adapter.stream_reader()
        begun: set[int] = set()
        ended: set[int] = set()
        is_finished = False
        try:
            for data in [*(json.dumps(d).encode() for d in documents), b"[DONE]"]:
                for event in reader.read(ServerSentEvent(data, data)):
                    assert not is_finished
                    if isinstance(event, PartBegun):
                        assert event.index == len(begun)
                        begun.add(event.index)
                    elif isinstance(event, PartGrew):
                        assert event.index in begun - ended
                    elif isinstance(event, PartEnded):
                        assert event.index in begun - ended
                        ended.add(event.index)
                    else:
                        is_finished = True
                        assert begun == ended
        except ProviderError:
            pass
