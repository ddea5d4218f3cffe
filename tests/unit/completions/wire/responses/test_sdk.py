"""What is written here is what OpenAI's own SDK reads: its types validate it, and its client accumulates it."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai import APIError, APIStatusError, AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.responses.api import ResponsesApi
from tollhouse.errors import BudgetExceeded, CallTimeout, InvalidRequest, TollhouseError
from tollhouse.providers.base import WireResponse
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    Message,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tollhouse.providers.responses.dialect import ResponsesDialect
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage

API = ResponsesApi()
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
BODY: dict[str, Any] = {
    "model": "claude",
    "input": "What is the weather in Rome and in Oslo?",
    "instructions": "Be brief.",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "weather"},
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "said", "schema": {"type": "object"}, "strict": True}},
    "metadata": {"case": "7"},
    "temperature": 0.5,
    "top_p": 0.9,
    "user": "user-1",
    "max_output_tokens": 900,
}
USAGE = Usage(
    input_tokens=10,
    cached_input_tokens=20,
    cache_write_tokens=30,
    cache_write_1h_tokens=5,
    output_tokens=40,
    reasoning_tokens=50,
)
COUNTED = {
    "input_tokens": 65,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 35},
    "output_tokens": 90,
    "output_tokens_details": {"reasoning_tokens": 50},
    "total_tokens": 155,
}
PARTS = (
    Thinking("Two cities.", signature="c2ln"),
    Thinking("", redacted="c2VhbGVk"),
    Text("I look it up."),
    ToolCall("call_1", "weather", '{"city":"Rome"}', signature="dGhvdWdodA"),
    ToolCall("call_2", "weather", "{}"),
)
STREAMED: tuple[StreamEvent, ...] = (
    PartBegun(0, Thinking("")),
    PartGrew(0, "Two "),
    PartGrew(0, "cities."),
    PartGrew(0, signature="c2ln"),
    PartEnded(0),
    PartBegun(1, Thinking("", redacted="c2VhbGVk")),
    PartEnded(1),
    PartBegun(2, Text("")),
    PartGrew(2, "I look "),
    PartGrew(2, "it up."),
    PartEnded(2),
    PartBegun(3, ToolCall("call_1", "weather", "")),
    PartBegun(4, ToolCall("call_2", "weather", "")),
    PartGrew(3, '{"city":'),
    PartGrew(3, '"Rome"}', signature="dGhvdWdodA"),
    PartEnded(4),
    PartEnded(3),
    Finished("tool_calls"),
)


def asked(**changes: Any):
    return API.read(json.dumps({**BODY, **changes}).encode())


def head(**changes: Any) -> AnswerHead:
    return AnswerHead("req_0199c3f1", "claude", 1_775_000_000, asked(**changes))


def streamed(*events: StreamEvent, **changes: Any) -> bytes:
    given = head(**changes)
    assert given.asked is not None
    writer = API.stream_writer(given.asked, given)
    return b"".join([writer.begin(), *map(writer.write, events), writer.end(USAGE)])


def documents(stream: bytes) -> list[dict[str, Any]]:
    parser = EventParser(1 << 20)
    events = list(parser.feed(stream))
    assert parser.rest() == b""
    found = [json.loads(event.data) for event in events]
    assert [event.name for event in events] == [each["type"] for each in found]
    return found


def client(status: int, body: bytes, content_type: str = "application/json") -> OpenAI:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/responses"
        return httpx2.Response(status, headers={"content-type": content_type}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return OpenAI(api_key="sk-1", base_url="http://gate/v1", http_client=http, max_retries=0)


def failing_stream(error: TollhouseError) -> bytes:
    given = head()
    assert given.asked is not None
    writer = API.stream_writer(given.asked, given)
    begun = writer.begin() + writer.write(PartBegun(0, Text(""))) + writer.write(PartGrew(0, "Hi"))
    return begun + API.stream_error(error, "req_1")


def test_a_whole_answer_is_a_response():
    written = API.answer(ProviderAnswer("I look it up.", "tool_calls", USAGE, parts=PARTS), USAGE, head())
    response = Response.model_validate_json(written, strict=True)
    assert response.output_text == "I look it up."
    assert (response.status, response.id, response.created_at) == ("completed", "resp_0199c3f1", 1_775_000_000)
    assert [item.type for item in response.output] == [
        "reasoning",
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert len({item.id for item in response.output}) == 5
    assert response.usage is not None
    assert response.usage.model_dump(exclude_none=True) == COUNTED


def test_a_response_repeats_its_request_and_claims_to_be_stored_nowhere():
    said = json.loads(API.answer(ProviderAnswer("Hi", "stop", USAGE), USAGE, head()))
    assert {name: said[name] for name in BODY if name not in ("input", "text", "reasoning", "model")} == {
        name: BODY[name] for name in BODY if name not in ("input", "text", "reasoning", "model")
    }
    assert said["reasoning"] == {"effort": "low", "summary": "auto"}
    assert said["text"] == {**BODY["text"], "verbosity": "medium"}
    assert (said["model"], said["store"], said["background"]) == ("claude", False, False)


def test_a_response_without_its_request_has_the_defaults():
    bare = AnswerHead("req_1", "claude", 7)
    response = Response.model_validate_json(API.answer(ProviderAnswer("", "stop", None), Usage(), bare), strict=True)
    assert (response.tools, response.tool_choice, response.output, response.output_text) == ([], "auto", [], "")


@pytest.mark.parametrize(
    ("finish_reason", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("other", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_how_an_answer_ended_is_its_status(finish_reason: FinishReason, status: str, reason: str | None):
    whole = Response.model_validate_json(
        API.answer(ProviderAnswer("Hi", finish_reason, USAGE), USAGE, head()), strict=True
    )
    last = documents(streamed(PartBegun(0, Text("")), PartGrew(0, "Hi"), PartEnded(0), Finished(finish_reason)))[-1]
    assert last["type"] == f"response.{status}"
    for response in (whole, Response.model_validate(last["response"], strict=True)):
        assert response.status == status
        assert (response.incomplete_details.reason if response.incomplete_details else None) == reason
        assert response.output_text == "Hi"
    (message,) = whole.output
    assert message.type == "message"
    assert message.status == status


def test_a_refusal_is_one():
    written = API.answer(ProviderAnswer("I won't.", "refusal", USAGE), USAGE, head())
    (message,) = Response.model_validate_json(written, strict=True).output
    assert message.type == "message"
    assert message.content[0].model_dump() == {"type": "refusal", "refusal": "I won't."}


def test_the_events_of_the_smallest_stream_are_golden():
    events = documents(streamed(PartBegun(0, Text("")), PartGrew(0, "Hi"), PartEnded(0), Finished("stop")))
    message = {"id": "msg_0199c3f10000", "type": "message", "role": "assistant"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    at = {"item_id": "msg_0199c3f10000", "output_index": 0, "content_index": 0}
    whole = {**message, "status": "completed", "content": [{**part, "text": "Hi"}]}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    told = [{name: event[name] for name in event if name != "sequence_number"} for event in events]
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert told[0]["response"] == told[1]["response"]
    assert (told[0]["response"]["status"], told[0]["response"]["usage"]) == ("in_progress", None)
    assert told[2:-1] == [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**message, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": "Hi", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "Hi", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": {**part, "text": "Hi"}},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
    ]
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["response"] == {
        **told[0]["response"],
        "status": "completed",
        "completed_at": 1_775_000_000,
        "output": [whole],
        "usage": COUNTED,
    }


def test_every_event_is_one_of_the_sdks():
    for event in documents(streamed(*STREAMED)):
        EVENTS.validate_python(event, strict=True)


def test_a_stream_ends_with_the_response_that_a_whole_answer_is():
    whole = json.loads(API.answer(ProviderAnswer("I look it up.", "tool_calls", USAGE, parts=PARTS), USAGE, head()))
    assert documents(streamed(*STREAMED))[-1]["response"] == whole


def test_a_part_that_was_left_open_is_ended_before_the_response():
    events = documents(streamed(PartBegun(0, Text("")), PartGrew(0, "Hi")))
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "response.completed"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hi"


def test_the_sdks_accumulator_takes_a_stream():
    calls = client(200, streamed(*STREAMED), "text/event-stream")
    with calls.responses.stream(model="claude", input="x", tools=[TOOL]) as stream:  # type: ignore[list-item]
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert snapshots == ["I look ", "I look it up."]
    assert response.output_text == "I look it up."
    arguments = [item.arguments for item in response.output if item.type == "function_call"]
    assert arguments == ['{"city":"Rome"}', "{}"]


def test_the_sdk_parses_structured_output_from_a_stream():
    class Said(BaseModel):
        city: str

    text = '{"city":"Rome"}'
    stream_bytes = streamed(PartBegun(0, Text("")), PartGrew(0, text), PartEnded(0), Finished("stop"))
    calls = client(200, stream_bytes, "text/event-stream")
    with calls.responses.stream(model="claude", input="x", text_format=Said) as stream:
        assert stream.get_final_response().output_parsed == Said(city="Rome")


def test_the_asynchronous_sdk_takes_a_stream():
    async def main() -> str:
        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=streamed(*STREAMED))

        async with (
            httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http,
            AsyncOpenAI(api_key="sk-1", base_url="http://gate/v1", http_client=http).responses.stream(
                model="claude", input="x"
            ) as stream,
        ):
            return (await stream.get_final_response()).output_text

    assert asyncio.run(main()) == "I look it up."


def test_what_the_sdk_received_comes_back_as_it_was_made():
    calls = client(200, streamed(*STREAMED), "text/event-stream")
    with calls.responses.stream(model="claude", input="x") as stream:
        response = stream.get_final_response()
    items = [item.to_dict(mode="json") for item in response.output]
    results = [{"type": "function_call_output", "call_id": f"call_{n}", "output": "Sunny"} for n in (1, 2)]
    again = asked(input=[{"role": "user", "content": "Weather?"}, *items, *results], instructions=None)
    assert API.translated(again, 100).messages == (
        Message("user", "Weather?"),
        Message("assistant", PARTS),
        Message(
            "user",
            (
                ToolResult("call_1", "weather", (Text("Sunny"),)),
                ToolResult("call_2", "weather", (Text("Sunny"),)),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (BudgetExceeded("the budget is spent"), "insufficient_quota", None),
        (InvalidRequest("input[0].type: no"), "invalid_request_error", "input[0].type"),
        (CallTimeout("too late"), "server_error", None),
    ],
)
def test_the_sdk_raises_an_error_with_its_code(error, kind, param):
    with pytest.raises(APIStatusError) as caught:
        client(error.status, API.error(error, "req_1")).responses.create(model="claude", input="x")
    assert (caught.value.status_code, caught.value.code) == (error.status, error.code)
    assert (caught.value.type, caught.value.param) == (kind, param)
    assert error.message in caught.value.message


def test_the_sdk_raises_when_a_stream_fails():
    calls = client(200, failing_stream(CallTimeout("too late")), "text/event-stream")
    seen = []
    with pytest.raises(APIError, match="too late") as caught:  # noqa: PT012 - it is raised on the way
        for event in calls.responses.create(model="claude", input="x", stream=True):
            seen.append(event.type)
    assert seen[-1] == "response.output_text.delta"
    assert caught.value.code == "ai_timeout"


def test_a_failing_stream_ends_with_the_documented_event():
    last = documents(failing_stream(CallTimeout("too late")))[-1]
    event = EVENTS.validate_python(last, strict=True)
    assert (event.type, event.code, event.message, event.param) == ("error", "ai_timeout", "too late", None)


@pytest.mark.parametrize("parts", [PARTS[2:3], PARTS[3:], PARTS[2:]])
def test_a_provider_of_this_format_would_be_read_alike(parts):
    """Both sides of the format agree with each other: what one writes, the other reads."""
    unsigned = tuple(ToolCall(p.id, p.name, p.arguments) if isinstance(p, ToolCall) else p for p in parts)
    content = "".join(part.text for part in parts if isinstance(part, Text))
    reason: FinishReason = "tool_calls" if any(isinstance(p, ToolCall) for p in parts) else "stop"
    used = Usage(input_tokens=10, cached_input_tokens=20, cache_write_tokens=30, output_tokens=40, reasoning_tokens=50)
    written = API.answer(ProviderAnswer(content, reason, used, parts=unsigned), used, head())
    read = ResponsesDialect((), "").decode(WireResponse(200, {}, written))
    assert (read.content, read.finish_reason, read.usage) == (content, reason, used)
    assert read.parts == (() if len(unsigned) == 1 and content else unsigned)


def test_a_stream_of_this_format_would_be_read_alike():
    reader = ResponsesDialect((), "").stream_reader()
    read = [each for event in EventParser(1 << 20).feed(streamed(*STREAMED)) for each in reader.read(event)]
    parts: dict[int, Any] = {}
    for event in read:
        if isinstance(event, PartBegun):
            parts[event.index] = [event.part, ""]
        elif isinstance(event, PartGrew):
            parts[event.index][1] += event.text
    assert [text for _, text in parts.values()] == ["Two cities.", "", "I look it up.", '{"city":"Rome"}', "{}"]
    assert [part.id for part, _ in parts.values() if isinstance(part, ToolCall)] == ["call_1", "call_2"]
    assert sum(isinstance(event, PartEnded) for event in read) == 5
    assert read[-1] == Finished("tool_calls")
    assert reader.usage is not None
    assert reader.usage.total_tokens == USAGE.total_tokens
