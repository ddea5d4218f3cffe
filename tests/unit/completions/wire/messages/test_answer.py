"""What is written for clients of the Messages API, read back by this service, and by Anthropic's own SDK."""

import json
from typing import Any

import anthropic
import httpx2
import pytest

from tollhouse import errors
from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.messages.api import MessagesApi
from tollhouse.providers.anthropic.adapter import AnthropicAdapter
from tollhouse.providers.anthropic.foreign import MARK, marked_call
from tollhouse.providers.base import WireResponse
from tollhouse.providers.conversation import (
    Finished,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage

API = MessagesApi()
ADAPTER = AnthropicAdapter(base_url="https://api.anthropic.com", api_key="k")
HEAD = AnswerHead("req_0199c3f1a2b4", "mine", 1_700_000_000)
USAGE = Usage(
    input_tokens=1,
    cached_input_tokens=20,
    cache_write_tokens=300,
    cache_write_1h_tokens=400,
    output_tokens=50,
    reasoning_tokens=6,
)
ALL_USAGE = Usage(1, 20, 300, 400, 50, 6, 7, 8, 9, 10, 11)
CALL = ToolCall("call_1", "f", '{"n": 1}')


def written(answer: ProviderAnswer, usage: Usage = USAGE) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(API.answer(answer, usage, HEAD))
    return read


def streamed(*events: StreamEvent, usage: Usage = USAGE) -> bytes:
    asked = API.read(b'{"model": "mine", "max_tokens": 9, "messages": ["x"], "stream": true}')
    writer = API.stream_writer(asked, HEAD)
    return b"".join([writer.begin(), *map(writer.write, events), writer.end(usage)])


def said(raw: bytes) -> list[dict[str, Any]]:
    parser = EventParser(1 << 20)
    events = list(parser.feed(raw))
    assert parser.rest() == b""
    read = [json.loads(event.data) for event in events]
    assert [event.name for event in events] == [data["type"] for data in read]
    return read


def client(status: int, body: bytes, content_type: str) -> anthropic.Anthropic:
    """Return Anthropic's own client, whose every call has this answer."""

    def answered(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/messages"
        return httpx2.Response(status, headers={"content-type": content_type}, content=body)

    transport = httpx2.MockTransport(answered)
    return anthropic.Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def asked_by_sdk(body: bytes, status: int = 200) -> anthropic.types.Message:
    with client(status, body, "application/json") as sdk:
        return sdk.messages.create(model="mine", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])


def streamed_to_sdk(body: bytes) -> anthropic.types.Message:
    ask: Any = {"model": "mine", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    with client(200, body, "text/event-stream") as sdk, sdk.messages.stream(**ask) as stream:
        return stream.get_final_message()


def test_a_plain_answer_is_golden():
    assert written(ProviderAnswer("Hi", "stop", None)) == {
        "id": "msg_0199c3f1a2b4",
        "type": "message",
        "role": "assistant",
        "model": "mine",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 700,
            "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 400},
            "output_tokens": 56,
            "output_tokens_details": {"thinking_tokens": 6},
            "server_tool_use": None,
        },
    }


PARTS: tuple[Text | ToolCall | Thinking, ...] = (
    Thinking("hm", signature="sig"),
    Thinking("unsigned"),
    Thinking("", redacted="xyz"),
    Thinking("shown", redacted="and hidden"),
    Text(""),
    Text("Wait."),
    CALL,
    ToolCall("call_2", "g", "no object", signature="call sig"),
)
BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "hm", "signature": f"{MARK}sig"},
    {"type": "thinking", "thinking": "unsigned", "signature": MARK},
    {"type": "redacted_thinking", "data": f"{MARK}xyz"},
    {"type": "thinking", "thinking": "shown", "signature": MARK},
    {"type": "redacted_thinking", "data": f"{MARK}and hidden"},
    {"type": "text", "text": "Wait."},
    {"type": "tool_use", "id": "call_1", "name": "f", "input": {"n": 1}},
    {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
    {"type": "redacted_thinking", "data": marked_call("call_2", "call sig")},
]


def test_every_part_is_a_block():
    assert written(ProviderAnswer("Wait.", "tool_calls", None, parts=PARTS))["content"] == BLOCKS


def test_arguments_reach_the_client_digit_for_digit():
    answer = ProviderAnswer("", "tool_calls", None, parts=(ToolCall("a", "f", '{"n": 1.10}'),))
    assert b'"input":{"n": 1.10}' in API.answer(answer, USAGE, HEAD)


def test_an_answer_of_no_text_has_no_blocks():
    assert written(ProviderAnswer("", "length", None))["content"] == []


@pytest.mark.parametrize(
    ("reason", "sequence", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
        ("refusal", None, ("refusal", None)),
        ("tool_calls", None, ("tool_use", None)),
        ("other", None, ("end_turn", None)),
    ],
)
def test_the_end_is_told_alike_whole_and_streamed(reason, sequence, expected):
    whole = written(ProviderAnswer("Hi", reason, None, stop_sequence=sequence))
    assert (whole["stop_reason"], whole["stop_sequence"]) == expected
    delta = said(streamed(Finished(reason, sequence)))[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == expected


def test_sounds_and_pictures_are_input_and_output_and_searches_are_searches():
    usage = written(ProviderAnswer("Hi", "stop", None), ALL_USAGE)["usage"]
    assert usage["input_tokens"] == 1 + 7 + 8
    assert usage["output_tokens"] == 50 + 6 + 9 + 10
    assert usage["server_tool_use"] == {"web_search_requests": 11, "web_fetch_requests": 0}
    total = usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
    assert total == ALL_USAGE.all_input_tokens


def test_a_plain_stream_is_golden():
    events = said(streamed(PartBegun(0, Text("")), PartGrew(0, "H"), PartGrew(0, "i"), PartEnded(0), Finished("stop")))
    start = events[0]["message"]
    assert start["usage"]["input_tokens"] == start["usage"]["output_tokens"] == 0
    assert (start["id"], start["content"], start["stop_reason"]) == ("msg_0199c3f1a2b4", [], None)
    assert events[1:-2] == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "H"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "i"}},
        {"type": "content_block_stop", "index": 0},
    ]
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": written(ProviderAnswer("", "stop", None))["usage"],
    }
    assert events[-1] == {"type": "message_stop"}


OVERLAPPING: tuple[StreamEvent, ...] = (
    PartBegun(0, Thinking("")),
    PartGrew(0, "h"),
    PartGrew(0, "m", "sig"),
    PartEnded(0),
    PartBegun(1, Text("")),
    PartEnded(1),
    PartBegun(2, Thinking("", redacted="xyz")),
    PartEnded(2),
    PartBegun(3, Text("")),
    PartGrew(3, "Wa"),
    PartBegun(4, ToolCall("call_1", "f", "")),
    PartBegun(5, ToolCall("call_2", "g", "")),
    PartGrew(5, "{}"),
    PartGrew(4, '{"n":'),
    PartGrew(3, "it."),
    PartGrew(5, signature="call sig"),
    PartEnded(5),
    PartEnded(3),
    PartGrew(4, " 1}"),
    PartBegun(6, Thinking("late")),
    PartEnded(6),
    PartEnded(4),
    Finished("tool_calls"),
)


def test_parts_that_overlap_are_blocks_one_after_the_other():
    events = said(streamed(*OVERLAPPING))
    opened: list[int] = []
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            opened.append(event["index"])
            current = event["index"]
        assert event["index"] == current
    assert opened == list(range(7))
    texts = [
        event["delta"].get("text") or event["delta"].get("partial_json") for event in events[1:-2] if "delta" in event
    ]
    assert [text for text in texts if text] == ["Wa", "it.", '{"n":', " 1}", "{}"]


def test_nothing_waits_that_need_not():
    writer = API.stream_writer(API.read(b'{"model": "m", "max_tokens": 9, "messages": ["x"]}'), HEAD)
    writer.begin()
    assert writer.write(PartBegun(0, Text(""))) == b""
    assert b"One" in writer.write(PartGrew(0, "One"))
    assert writer.write(PartBegun(1, CALL)) == writer.write(PartGrew(1, "{")) == b""
    assert [event["type"] for event in said(writer.write(PartEnded(0)))] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]
    assert b'"}"' in writer.write(PartGrew(1, "}"))


def test_parts_that_were_left_open_are_ended():
    kinds = [event["type"] for event in said(streamed(PartBegun(0, CALL), PartBegun(1, Text("")), PartGrew(1, "x")))]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_what_is_of_no_part_is_nothing():
    assert said(streamed(PartGrew(7, "x"), PartEnded(7))) == said(streamed())


def test_what_is_written_is_read_as_it_was():
    answer = ADAPTER.decode(
        WireResponse(
            200, {}, API.answer(ProviderAnswer("Wait.", "tool_calls", None, parts=(Text("Wait."), CALL)), USAGE, HEAD)
        )
    )
    assert answer == ProviderAnswer("Wait.", "tool_calls", USAGE, "msg_0199c3f1a2b4", (Text("Wait."), CALL))
    reader, parser = ADAPTER.stream_reader(), EventParser(1 << 20)
    sent = (
        PartBegun(0, Text("")),
        PartGrew(0, "Hi"),
        PartEnded(0),
        PartBegun(1, ToolCall("call_1", "f", "")),
        PartGrew(1, "{}"),
        PartEnded(1),
        Finished("stop", "END"),
    )
    assert [event for raw in parser.feed(streamed(*sent)) for event in reader.read(raw)] == list(sent)
    assert reader.usage == USAGE


def test_anthropics_sdk_reads_an_answer():
    message = asked_by_sdk(API.answer(ProviderAnswer("Wait.", "tool_calls", None, parts=PARTS), USAGE, HEAD))
    assert [block.model_dump(exclude_none=True) for block in message.content] == BLOCKS
    assert (message.id, message.model, message.stop_reason) == ("msg_0199c3f1a2b4", "mine", "tool_use")
    anthropic.types.Message.model_validate(message.model_dump())
    assert message.usage.cache_creation_input_tokens == 700
    assert message.usage.output_tokens == 56


def test_anthropics_sdk_puts_a_stream_together():
    message = streamed_to_sdk(streamed(*OVERLAPPING, usage=ALL_USAGE))
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "thinking", "thinking": "hm", "signature": f"{MARK}sig"},
        {"type": "redacted_thinking", "data": f"{MARK}xyz"},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"n": 1}},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
        {"type": "redacted_thinking", "data": marked_call("call_2", "call sig")},
        {"type": "thinking", "thinking": "late", "signature": MARK},
    ]
    assert message.stop_reason == "tool_use"
    assert message.usage.input_tokens == 16
    assert message.usage.output_tokens == 75
    assert message.usage.cache_read_input_tokens == 20
    assert message.usage.cache_creation_input_tokens == 700
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 11


def test_every_event_is_of_the_sdks_own_type():
    kinds: dict[str, Any] = {
        "message_start": anthropic.types.RawMessageStartEvent,
        "content_block_start": anthropic.types.RawContentBlockStartEvent,
        "content_block_delta": anthropic.types.RawContentBlockDeltaEvent,
        "content_block_stop": anthropic.types.RawContentBlockStopEvent,
        "message_delta": anthropic.types.RawMessageDeltaEvent,
        "message_stop": anthropic.types.RawMessageStopEvent,
    }
    for event in said(streamed(*OVERLAPPING)):
        kinds[event["type"]].model_validate(event, strict=True)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errors.InvalidRequest, anthropic.UnprocessableEntityError),
        (errors.Unauthorized, anthropic.AuthenticationError),
        (errors.BudgetExceeded, anthropic.APIStatusError),
        (errors.ModuleInactive, anthropic.PermissionDeniedError),
        (errors.ModelUnknown, anthropic.NotFoundError),
        (errors.IdempotencyInFlight, anthropic.ConflictError),
        (errors.RateLimited, anthropic.RateLimitError),
        (errors.InternalError, anthropic.InternalServerError),
        (errors.Unavailable, anthropic.InternalServerError),
        (errors.CallTimeout, anthropic.InternalServerError),
    ],
)
def test_anthropics_sdk_raises_its_own_errors(error, raised):
    with pytest.raises(raised) as caught:
        asked_by_sdk(API.error(error("No way."), "req_1"), error.status)
    assert caught.value.status_code == error.status
    assert caught.value.body["error"]["code"] == error.code
    assert caught.value.body["error"]["message"] == "No way."


def test_anthropics_sdk_raises_an_error_amid_a_stream():
    begun = streamed(PartBegun(0, Text("")), PartGrew(0, "Hi"))
    cut = begun[: begun.index(b"event: content_block_stop")]
    with pytest.raises(anthropic.APIStatusError) as caught:
        streamed_to_sdk(cut + API.stream_error(errors.Unavailable("No way."), "req_1"))
    body: Any = caught.value.body
    assert body["error"]["code"] == "ai_unavailable"
