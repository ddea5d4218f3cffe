import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.recorded import RECORDED
from tollhouse.providers.anthropic.stream import MessagesReader
from tollhouse.providers.base import OutcomeUnknown, Overloaded, ProviderError, Rejected
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
from tollhouse.providers.sse import EventParser, ServerSentEvent, encode_event
from tollhouse.providers.usage import Usage

START = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 10, "output_tokens": 1}}}
STOP = {"type": "message_stop"}


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stopped(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finished(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def error(kind: str, text: str = "No") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


def as_event(data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(b"", json.dumps(data).encode(), data["type"])


def read(*sent: dict[str, Any]) -> tuple[MessagesReader, list[StreamEvent]]:
    reader = MessagesReader(secret="sk-ant-0123456789")
    return reader, [event for data in sent for event in reader.read(as_event(data))]


def test_a_whole_stream_is_golden():
    reader, events = read(
        START,
        {"type": "ping"},
        block(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="h"),
        delta(0, type="thinking_delta", thinking="m"),
        delta(0, type="signature_delta", signature="sig"),
        stopped(0),
        block(1, type="redacted_thinking", data="xyz"),
        stopped(1),
        block(2, type="server_tool_use", id="srv", name="web_search", input={}),
        delta(2, type="input_json_delta", partial_json='{"query": "x"}'),
        stopped(2),
        block(3, type="web_search_tool_result", tool_use_id="srv", content=[{"type": "web_search_result"}]),
        stopped(3),
        block(4, type="text", text=""),
        delta(4, type="text_delta", text="Hi"),
        delta(4, type="citations_delta", citation={"type": "char_location"}),
        {"type": "of_tomorrow", "index": 4},
        stopped(4),
        block(5, type="tool_use", id="toolu_1", name="f", input={}),
        delta(5, type="input_json_delta", partial_json=""),
        delta(5, type="input_json_delta", partial_json='{"n":'),
        delta(5, type="input_json_delta", partial_json=" 1}"),
        stopped(5),
        finished("tool_use", output_tokens=9),
        STOP,
    )
    assert events == [
        PartBegun(0, Thinking("")),
        PartGrew(0, "h"),
        PartGrew(0, "m"),
        PartGrew(0, signature="sig"),
        PartEnded(0),
        PartBegun(1, Thinking("", redacted="xyz")),
        PartEnded(1),
        PartBegun(2, Text("")),
        PartGrew(2, "Hi"),
        PartEnded(2),
        PartBegun(3, ToolCall("toolu_1", "f", "")),
        PartGrew(3, '{"n":'),
        PartGrew(3, " 1}"),
        PartEnded(3),
        Finished("tool_calls"),
    ]
    assert reader.usage == Usage(input_tokens=10, output_tokens=9)
    assert reader.provider_request_id == "msg_1"


def test_a_call_without_arguments_is_a_call_of_an_empty_object():
    _, events = read(START, block(0, type="tool_use", id="t", name="f", input={}), stopped(0))
    assert events == [PartBegun(0, ToolCall("t", "f", "")), PartGrew(0, "{}"), PartEnded(0)]


def test_what_a_block_begins_with_is_part_of_it():
    _, events = read(
        block(0, type="text", text="Hi"),
        block(1, type="thinking", thinking="hm", signature="sig"),
        block(2, type="tool_use", id="t", name="f", input={"n": 1}),
        finished(output_tokens=1),
    )
    assert events == [
        PartBegun(0, Text("")),
        PartGrew(0, "Hi"),
        PartBegun(1, Thinking("")),
        PartGrew(1, "hm", "sig"),
        PartBegun(2, ToolCall("t", "f", "")),
        PartEnded(0),
        PartEnded(1),
        PartGrew(2, '{"n": 1}'),
        PartEnded(2),
        Finished("stop"),
    ]


def test_the_stop_sequence_is_told():
    _, events = read(
        START, {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"}}
    )
    assert events == [Finished("stop", "END")]


def test_usage_is_what_was_said_last_of_each_count():
    written = {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 400}
    start = {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 1,
                "cache_read_input_tokens": 20,
                "cache_creation_input_tokens": 700,
                "cache_creation": written,
                "output_tokens": 1,
            }
        },
    }
    reader, _ = read(start)
    assert reader.usage == Usage(1, 20, 300, 400, output_tokens=1)
    reader, _ = read(
        start,
        finished(
            input_tokens=2,
            cache_read_input_tokens=None,
            output_tokens=90,
            output_tokens_details={"thinking_tokens": 50},
            server_tool_use={"web_search_requests": 2},
        ),
        STOP,
    )
    assert reader.usage == Usage(2, 20, 300, 400, output_tokens=40, reasoning_tokens=50, web_searches=2)


@pytest.mark.parametrize(
    ("in_5m", "in_1h", "expected"), [(0, 100, (0, 150)), (100, 0, (150, 0)), (60, 40, (110, 40)), (0, 0, (150, 0))]
)
def test_what_is_cached_on_the_way_lives_as_long_as_what_was_before(in_5m, in_1h, expected):
    split = {"ephemeral_5m_input_tokens": in_5m, "ephemeral_1h_input_tokens": in_1h}
    usage = {
        "input_tokens": 1,
        "output_tokens": 1,
        "cache_creation_input_tokens": in_5m + in_1h,
        "cache_creation": split,
    }
    reader, _ = read(
        {"type": "message_start", "message": {"usage": usage}},
        finished(output_tokens=1, cache_creation_input_tokens=150),
    )
    assert reader.usage is not None
    assert (reader.usage.cache_write_tokens, reader.usage.cache_write_1h_tokens) == expected


@pytest.mark.parametrize(
    ("sent", "is_behind"),
    [
        ((START,), True),
        ((START, finished(output_tokens=5)), False),
        ((START, finished(output_tokens=5), finished()), False),
        ((START, finished()), True),
        ((START, finished(output_tokens=None)), True),
        ((START, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}), True),
    ],
)
def test_what_a_stream_begins_with_is_not_its_output(sent, is_behind):
    reader, _ = read(*sent)
    assert reader.is_behind is is_behind


def test_thinking_is_billed_for_more_than_is_shown():
    assert not read(START, block(0, type="text", text="a"))[0].thinks_unseen
    assert read(START, block(0, type="thinking", thinking="", signature=""))[0].thinks_unseen
    assert read(START, block(0, type="redacted_thinking", data="x"))[0].thinks_unseen


def test_an_explicit_zero_is_a_zero():
    reader, _ = read(START, finished(input_tokens=0, output_tokens=0))
    assert reader.usage == Usage()


@pytest.mark.parametrize(
    "usage", ["many", [], 7, {"output_tokens": -1}, {"output_tokens": "9"}, {"input_tokens": True}]
)
def test_a_usage_that_cannot_be_read_does_not_cost_the_answer(usage):
    reader, events = read(START, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    assert events == [Finished("stop")]
    assert reader.usage is None


def test_nothing_counts_after_the_end():
    reader, events = read(START, finished(output_tokens=5), STOP)
    assert len(events) == 1
    assert reader.read(ServerSentEvent(b"", b"[DONE]")) == ()
    assert reader.read(as_event(finished(output_tokens=99))) == ()
    assert reader.usage == Usage(input_tokens=10, output_tokens=5)


def test_an_answer_comes_to_its_end_once():
    reader, events = read(START, finished("max_tokens", output_tokens=5), finished("end_turn", output_tokens=6))
    assert events == [Finished("length")]
    assert reader.usage == Usage(input_tokens=10, output_tokens=6)


@pytest.mark.parametrize(
    ("kind", "status"), [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500), ("of_tomorrow", 500)]
)
def test_an_error_before_the_beginning_is_free(kind, status):
    with pytest.raises(Overloaded, match=kind) as caught:
        read({"type": "ping"}, error(kind))
    assert caught.value.status == status


def test_a_refusal_before_the_beginning_tells_its_reason_but_not_the_key():
    with pytest.raises(Rejected, match=r"messages: too long \[key\]") as caught:
        read(error("invalid_request_error", "messages: too long sk-ant-0123456789"))
    assert caught.value.status == 400


def test_the_operators_fault_is_not_the_callers():
    with pytest.raises(Overloaded, match="operator configured") as caught:
        read(error("authentication_error", "sk-ant-0123456789"))
    assert "sk-ant" not in str(caught.value)


@pytest.mark.parametrize("begun", [START, block(0, type="text", text=""), finished(output_tokens=1)])
def test_an_error_after_the_beginning_may_be_billed(begun):
    with pytest.raises(OutcomeUnknown, match=r"broke its answer off \(overloaded_error\)"):
        read(begun, error("overloaded_error"))


def test_an_error_beside_usage_may_be_billed():
    with pytest.raises(OutcomeUnknown):
        read({**error("overloaded_error"), "usage": {"input_tokens": 3}})


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"7", b"{}", b'{"type":7}', b'{"type":"ping","index":"x"}', b"\xff", b'{"a":' * 5000, b"[DONE]"],
)
def test_what_is_no_event_may_be_billed(data):
    with pytest.raises(OutcomeUnknown, match="cannot be read"):
        MessagesReader(secret="").read(ServerSentEvent(b"", data))


def test_a_comment_says_nothing():
    assert MessagesReader(secret="").read(ServerSentEvent(b":\n\n", b"")) == ()


def recorded_streams() -> list[dict[str, Any]]:
    file = RECORDED / "anthropic-messages.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["stream"]]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_every_recorded_stream_has_its_usage_class_by_class_and_its_parts(size):
    streams = recorded_streams()
    assert len(streams) == 6
    for stream in streams:
        reader, parser = MessagesReader(secret=""), EventParser(1 << 20)
        raw = stream["response"].encode()
        events = [
            event
            for at in range(0, len(raw), size)
            for sent in parser.feed(raw[at : at + size])
            for event in reader.read(sent)
        ]
        assert parser.rest() == b""
        said = [json.loads(line[6:]) for line in stream["response"].splitlines() if line.startswith("data: ")]
        check_usage(reader, said)
        check_parts(events, said)


def check_usage(reader: MessagesReader, said: list[dict[str, Any]]) -> None:
    start = said[0]["message"]
    last = next(each for each in said if each["type"] == "message_delta")["usage"]
    thinking = last.get("output_tokens_details", {}).get("thinking_tokens", 0)
    split = start["usage"]["cache_creation"]
    assert last["cache_creation_input_tokens"] == sum(split.values())
    assert reader.usage == Usage(
        input_tokens=last["input_tokens"],
        cached_input_tokens=last["cache_read_input_tokens"],
        cache_write_tokens=split["ephemeral_5m_input_tokens"],
        cache_write_1h_tokens=split["ephemeral_1h_input_tokens"],
        output_tokens=last["output_tokens"] - thinking,
        reasoning_tokens=thinking,
    )
    assert reader.provider_request_id == start["id"]


def check_parts(events: list[StreamEvent], said: list[dict[str, Any]]) -> None:
    kinds = {"text": Text, "thinking": Thinking, "redacted_thinking": Thinking, "tool_use": ToolCall}
    wanted = [each for each in said if each["type"] == "content_block_start" and each["content_block"]["type"] in kinds]
    begun = [event for event in events if isinstance(event, PartBegun)]
    assert [event.index for event in begun] == list(range(len(wanted)))
    assert [type(event.part) for event in begun] == [kinds[each["content_block"]["type"]] for each in wanted]
    assert [event.index for event in events if isinstance(event, PartEnded)] == list(range(len(wanted)))
    for part, each in zip(begun, wanted, strict=True):
        deltas = [d["delta"] for d in said if d["type"] == "content_block_delta" and d["index"] == each["index"]]
        grown = [event for event in events if isinstance(event, PartGrew) and event.index == part.index]
        text = "".join(d.get("text") or d.get("thinking") or d.get("partial_json") or "" for d in deltas)
        assert "".join(event.text for event in grown) == text
        signatures = [d["signature"] for d in deltas if d["type"] == "signature_delta"]
        assert [event.signature for event in grown if event.signature is not None] == signatures
    assert isinstance(events[-1], Finished)
    assert events[-1].finish_reason in {"stop", "tool_calls"}


def test_the_parser_and_the_reader_agree_on_what_is_written():
    parser = EventParser(1000)
    (event,) = parser.feed(encode_event(json.dumps(START).encode(), "message_start"))
    assert MessagesReader(secret="").read(event) == ()


FIELDS = (
    "type index message id usage content_block delta text thinking signature data name input partial_json stop_reason "
    "stop_sequence error input_tokens output_tokens cache_creation iterations"
)
KINDS = (
    "message_start content_block_start content_block_delta content_block_stop message_delta message_stop ping error "
    "text thinking redacted_thinking tool_use overloaded_error invalid_request_error compaction end_turn"
)


def words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False, allow_infinity=False) | words(KINDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@given(
    st.lists(
        st.builds(
            lambda kind, fields: {**fields, "type": kind},
            words(KINDS),
            st.dictionaries(words(FIELDS), JSON, max_size=4),
        ),
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_is_read_or_fails_in_a_known_way(sent):
    reader = MessagesReader(secret="sk-ant-0123456789")
    begun: set[int] = set()
    for data in sent:
        try:
            events = reader.read(as_event(data))
        except ProviderError:
            return
        for event in events:
            if isinstance(event, PartBegun):
                assert event.index == len(begun)
                begun.add(event.index)
            elif not isinstance(event, Finished):
                assert event.index in begun
        assert reader.usage is None or min(msgspec.structs.astuple(reader.usage)) >= 0
