import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tollhouse import errors
from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.chat.api import ChatApi, is_usage_alone
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    Finished,
    Media,
    Message,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    ProviderRequest,
    Reasoning,
    StreamEvent,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage

API = ChatApi()
HEAD = AnswerHead("req_0199", "claude", 1_700_000_000)
USAGE = Usage(
    input_tokens=1,
    cached_input_tokens=2,
    cache_write_tokens=4,
    cache_write_1h_tokens=8,
    audio_input_tokens=16,
    image_input_tokens=32,
    output_tokens=64,
    reasoning_tokens=128,
    audio_output_tokens=256,
    image_output_tokens=512,
    web_searches=3,
)
COUNTED = {
    "prompt_tokens": 63,
    "completion_tokens": 960,
    "total_tokens": 1023,
    "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 12, "audio_tokens": 16},
    "completion_tokens_details": {
        "reasoning_tokens": 128,
        "audio_tokens": 256,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
SAY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def read(**fields: Any) -> Any:
    return API.read(json.dumps({**SAY, **fields}).encode())


def translated(**fields: Any) -> ProviderRequest:
    return API.translated(read(**fields), 100)


def messages(*said: dict[str, Any]) -> tuple[Message, ...]:
    return translated(messages=list(said)).messages


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def test_what_every_call_needs_is_read():
    asked = read(
        max_completion_tokens=7,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
        user="u",
        web_search_options={},
    )
    assert (asked.model, asked.max_tokens, asked.answers, asked.is_stream) == ("m", 7, 2, True)
    assert (asked.shows_usage, asked.user, asked.max_searches) == (True, "u", 1)
    bare = read()
    assert (bare.max_tokens, bare.answers, bare.is_stream, bare.shows_usage) == (None, 1, False, False)
    assert (bare.user, bare.max_searches) == (None, 0)
    assert bare.body == SAY


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        ({"model": None}, "model: is required"),
        ({"model": "a\nb"}, "model: expected 1 to 256 printable"),
        ({"messages": []}, "messages: expected"),
        ({"messages": {}}, "messages: expected"),
        ({"max_tokens": 0}, "max_tokens: expected"),
        ({"max_tokens": True}, "max_tokens: expected"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens: expected"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens: expected either"),
        ({"n": 129}, "n: expected"),
        ({"stream": "yes"}, "stream: expected"),
        ({"stream_options": []}, "stream_options: expected"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: expected"),
        ({"user": 7}, "user: expected"),
        ({"service_tier": "priority"}, "service_tier: expected"),
        ({"models": ["dear/one"]}, "models: not allowed, since another model"),
        ({"plugins": [{"id": "web"}]}, "plugins: not allowed"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters: not allowed"),
        ({"enable_search": True}, "enable_search: not allowed"),
        ({"best_of": 20}, "best_of: not allowed"),
        ({"n_predict": -1}, "n_predict: not allowed"),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, r"tools\[1\].type: 'web_search' is run and billed"),
        ({"tools": [{"type": "code_interpreter"}]}, r"tools\[0\].type: "),
    ],
)
def test_what_is_malformed_is_refused_by_name(fields, begins):
    with pytest.raises(InvalidRequest, match=f"^{begins}"):
        read(**fields)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 9999, b'{"model":' + b"[" * 9999])
def test_what_is_no_object_is_refused(raw):
    with pytest.raises(InvalidRequest):
        API.read(raw)


def test_data_that_the_provider_looks_up_is_read_in_several_steps():
    asked = read(data_sources=[{"type": "azure_search"}])
    assert (asked.reads_stored, asked.max_steps) == (True, 2)
    assert (read().reads_stored, read().max_steps) == (False, 0)


def test_a_limit_keeps_the_name_the_client_used():
    assert API.limited(read(max_tokens=9), 5) == {**SAY, "max_tokens": 5}
    assert API.limited(read(max_completion_tokens=9), 5) == {**SAY, "max_completion_tokens": 5}
    assert API.limited(read(), 5) == {**SAY, "max_completion_tokens": 5}
    streamed = API.limited(read(stream=True, stream_options={"include_obfuscation": False}), 5)
    assert streamed["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_the_fullest_request_is_translated():
    schema = {"type": "object"}
    asked = translated(
        temperature=0,
        top_p=0.5,
        top_k=3,
        stop=["A", "B"],
        seed=0,
        presence_penalty=1,
        frequency_penalty=-1,
        reasoning_effort="high",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema, "strict": True, "description": "a city"},
        },
        tools=[
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": schema, "strict": False},
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            }
        ],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        safety_identifier="u",
        prompt_cache_key="k",
        stream=True,
        n=1,
        logprobs=False,
        modalities=["text"],
        store=False,
        audio=None,
    )
    assert asked == ProviderRequest(
        model="m",
        messages=(Message("user", "Hi"),),
        max_tokens=100,
        temperature=0.0,
        stop=("A", "B"),
        response_schema={"type": "object", "description": "a city"},
        schema_name="city",
        tools=(Tool("f", "d", schema, False, "1h"),),
        tool_choice=ToolChoice("named", "f"),
        allows_parallel_calls=False,
        reasoning=Reasoning(effort="high"),
        top_p=0.5,
        top_k=3,
        seed=0,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        user="u",
        stream=True,
    )
    assert translated(response_format={"type": "json_object"}).is_json
    assert translated(response_format={"type": "text"}) == translated()


def test_messages_are_translated():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    signed = {
        "id": "b",
        "type": "function",
        "function": {"name": "g", "arguments": '{"x":1}'},
        "extra_content": {"google": {"thought_signature": "sig"}},
    }
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]},
        user(
            {"type": "text", "text": "T"},
            {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,aWk=", "detail": "high"}},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "bXAz", "format": "mp3"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,cGRm"}},
            {"type": "file", "file": {"filename": "b.pdf", "file_data": "cGRm"}},
        ),
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call, signed]},
        {"role": "tool", "tool_call_id": "a", "content": "A"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "B"}]},
        {"role": "tool", "tool_call_id": "z", "content": "Z", "name": "named"},
        {"role": "assistant", "content": None, "refusal": "No.", "annotations": [{"type": "url_citation"}]},
        {"role": "assistant", "content": "Yes", "audio": None},
    ) == (
        Message("system", "Be brief."),
        Message("system", (Text("S", "5m"),)),
        Message(
            "user",
            (
                Text("T"),
                Media("image", "image/png", "aWk=", detail="high"),
                Media("image", url="https://x.example/a.png"),
                Media("audio", "audio/mp3", "bXAz"),
                Media("document", "application/pdf", "cGRm", name="a.pdf"),
                Media("document", "application/pdf", "cGRm", name="b.pdf"),
            ),
        ),
        Message("assistant", (Thinking("hm"), ToolCall("a", "f", "{}"), ToolCall("b", "g", '{"x":1}', "sig"))),
        Message(
            "user",
            (
                ToolResult("a", "f", (Text("A"),)),
                ToolResult("b", "g", (Text("B"),)),
                ToolResult("z", "named", (Text("Z"),)),
            ),
        ),
        Message("assistant", "No."),
        Message("assistant", "Yes"),
    )


DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        ({"n": 2}, "n: cannot be translated"),
        ({"logprobs": True, "top_logprobs": 5}, "logprobs, top_logprobs: cannot"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "modalities, audio: cannot"),
        ({"logit_bias": {"1": 5}}, "logit_bias: cannot"),
        ({"functions": [{"name": "f"}]}, "functions: cannot"),
        ({"web_search_options": {}}, "web_search_options: cannot"),
        ({"store": True}, "store: cannot"),
        ({"temperature": 2.5}, "temperature: expected"),
        ({"top_p": "1"}, "top_p: expected"),
        ({"seed": 2**64}, "seed: expected"),
        ({"stop": [1]}, "stop: expected"),
        ({"reasoning_effort": "huge"}, "reasoning_effort: expected one of none, minimal"),
        ({"response_format": {"type": []}}, "response_format.type: expected"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: expected"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema: expected",
        ),
        ({"tools": [{"type": "custom", "custom": {}}]}, r"tools\[0\].type: only"),
        ({"tools": [{"type": "function", "function": {}}]}, r"tools\[0\].function.name: is required"),
        ({"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]}, r"tools\[0\].function.x: cannot"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]}, r"tools\[0\].function.para"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type: only"),
        ({"tool_choice": "some"}, "tool_choice: expected"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(fields, begins):
    with pytest.raises(InvalidRequest, match=f"^{begins}"):
        translated(**fields)


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}


@pytest.mark.parametrize(
    ("message", "begins"),
    [
        ({"role": ["user"], "content": "x"}, "role: expected"),
        ({"role": "function", "content": "x"}, "role: expected"),
        ({"role": "user"}, "content: expected"),
        ({"role": "user", "content": []}, "content: expected"),
        ({"role": "user", "content": "x", "name": "Ann"}, "name: cannot"),
        (user({"type": "video"}), r"content\[0\].type: expected one of text, image_url"),
        (user({"type": "text"}), r"content\[0\].text: is required"),
        (user({"type": "image_url", "image_url": {"url": "file:///a"}}), r"content\[0\].image_url.url: expected"),
        (
            user({"type": "image_url", "image_url": {"url": "data:image/png,x"}}),
            r"content\[0\].image_url.url: expected",
        ),
        (user({"type": "image_url", "image_url": "x"}), r"content\[0\].image_url: expected an object"),
        (
            user({"type": "input_audio", "input_audio": {"data": "x", "format": "ogg"}}),
            r"content\[0\].input_audio.format",
        ),
        (user({"type": "file", "file": {"file_id": "f"}}), r"content\[0\].file.file_id: "),
        (user({"type": "file", "file": {"file_data": "x"}}), r"content\[0\].file.file_data: "),
        ({"role": "system", "content": [{"type": "image_url"}]}, r"content\[0\].type: expected one of text here"),
        ({"role": "assistant", "content": None}, "content: is required"),
        ({"role": "assistant", "audio": {"id": "a"}}, "audio: cannot"),
        ({"role": "assistant", "tool_calls": [CALL]}, r"tool_calls\[0\].function.arguments: expected a JSON object"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}, r"tool_calls\[0\].type: "),
        ({"role": "tool", "content": "x"}, "tool_call_id: is required"),
    ],
)
def test_a_message_is_refused_by_its_path(message, begins):
    with pytest.raises(InvalidRequest, match=rf"^messages\[0\].{begins}"):
        messages(message)


CALLS = (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}", "sig"))


def written(answer: ProviderAnswer) -> ChatCompletion:
    return ChatCompletion.model_validate(json.loads(API.answer(answer, USAGE, HEAD)), strict=True)


def test_an_answer_is_golden():
    answer = ProviderAnswer("Hi", "length", USAGE)
    assert json.loads(API.answer(answer, USAGE, HEAD)) == {
        "id": "chatcmpl-0199",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": COUNTED,
    }


def test_the_official_sdk_reads_every_kind_of_answer():
    message = written(ProviderAnswer("", "tool_calls", USAGE, parts=CALLS)).choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert [call.model_dump()["function"]["name"] for call in message.tool_calls] == ["f", "g"]
    refused = written(ProviderAnswer("I cannot.", "refusal", USAGE)).choices[0]
    assert (refused.message.refusal, refused.message.content, refused.finish_reason) == ("I cannot.", None, "stop")
    assert written(ProviderAnswer("", "refusal", USAGE)).choices[0].finish_reason == "content_filter"
    for reason in ("stop", "length", "content_filter", "tool_calls", "other"):
        assert written(ProviderAnswer("x", reason, USAGE)).usage is not None


def test_an_answer_sent_back_by_the_official_sdk_is_what_it_was():
    thoughts = (Thinking("hm", "signed"), Thinking("", redacted="hidden"))
    parts = (*thoughts, Text("Look"), *CALLS)
    message = written(ProviderAnswer("Look", "tool_calls", USAGE, parts=parts)).choices[0].message
    sent_back = message.model_dump(exclude_unset=True, mode="json")
    assert messages(SAY["messages"][0], sent_back)[1] == Message("assistant", parts)
    bare = written(ProviderAnswer("Yes", "stop", USAGE, parts=(Thinking("hm"), Text("Yes")))).choices[0].message
    assert messages(bare.model_dump())[0] == Message("assistant", (Thinking("hm"), Text("Yes")))


STREAM: tuple[StreamEvent, ...] = (
    PartBegun(0, Thinking("")),
    PartGrew(0, "hm"),
    PartGrew(0, signature="signed"),
    PartEnded(0),
    PartBegun(1, Text("")),
    PartGrew(1, "Lo"),
    PartGrew(1, "ok"),
    PartEnded(1),
    PartBegun(2, ToolCall("a", "f", "")),
    PartBegun(3, ToolCall("b", "g", "")),
    PartGrew(3, "{}", "sig"),
    PartGrew(2, '{"x":'),
    PartGrew(2, "1}"),
    PartEnded(2),
    PartEnded(3),
    Finished("tool_calls"),
)


def streamed(*events: StreamEvent, **options: Any) -> list[bytes]:
    writer = API.stream_writer(read(stream=True, **options), HEAD)
    raw = writer.begin() + b"".join(writer.write(event) for event in events) + writer.end(USAGE)
    return [event.data for event in EventParser(1 << 20).feed(raw)]


def test_thinking_of_a_stream_comes_back_signed_as_that_of_a_whole_answer_does():
    redacted = (PartBegun(4, Thinking("", redacted="hidden")), PartEnded(4))
    again = (PartBegun(5, Thinking("")), PartGrew(5, "so"), PartGrew(5, "!"), PartGrew(5, "", "also"), PartEnded(5))
    bare = (PartBegun(6, Thinking("")), PartGrew(6, "bare"), PartEnded(6))
    state = ChatCompletionStreamState()
    for data in streamed(*STREAM[:-1], *redacted, *again, *bare, STREAM[-1])[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(data))
    message = state.get_final_completion().choices[0].message.model_dump(exclude_unset=True, mode="json")
    thoughts = [part for part in messages(message)[0].content if isinstance(part, Thinking)]
    assert thoughts == [Thinking("hm", "signed"), Thinking("", redacted="hidden"), Thinking("so!", "also")]


def test_the_official_sdk_puts_a_stream_together():
    *chunks, done = streamed(*STREAM, stream_options={"include_usage": True})
    assert done == b"[DONE]"
    state = ChatCompletionStreamState()
    for data in chunks:
        chunk = json.loads(data)
        assert chunk.keys() == {"id", "object", "created", "model", "choices", "usage"}
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    whole = state.get_final_completion().model_dump()
    message = whole["choices"][0]["message"]
    assert (whole["id"], whole["model"], whole["created"]) == ("chatcmpl-0199", "claude", 1_700_000_000)
    assert (message["role"], message["content"], message["reasoning_content"]) == ("assistant", "Look", "hm")
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "{}"),
    ]
    assert message["tool_calls"][1]["extra_content"] == {"google": {"thought_signature": "sig"}}
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert json.loads(chunks[-1])["choices"] == []
    assert json.loads(chunks[-1])["usage"] == COUNTED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id":"c","choices":[],"usage":{"prompt_tokens":1}}', True),
        (b'{"id":"c","usage": {"prompt_tokens":1}, "choices": [ ]}', True),
        (b'{"id":"c","choices":[],"usage":null,"prompt_filter_results":[]}', False),
        (b'{"id":"c","choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}', False),
        (b'{"error":{"message":"usage"}}', False),
        (b'{"usage"', False),
        (b"[DONE]", False),
        (b"", False),
    ],
)
def test_the_chunk_with_nothing_but_the_usage_is_told_from_others(data, expected):
    assert is_usage_alone(data) is expected


def test_a_stream_tells_its_usage_only_where_it_is_asked_for():
    chunks = [json.loads(data) for data in streamed(*STREAM)[:-1]]
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (errors.Unauthorized("no key"), "authentication_error", None),
        (errors.BudgetExceeded("spent: all"), "insufficient_quota", None),
        (errors.ModuleInactive("off"), "permission_error", None),
        (errors.ModelUnknown("no such"), "invalid_request_error", None),
        (
            errors.InvalidRequest("messages[0].content[1].type: unknown"),
            "invalid_request_error",
            "messages[0].content[1].type",
        ),
        (errors.ProviderRejected("openai refused the request: no"), "invalid_request_error", None),
        (errors.RateLimited("slow down"), "rate_limit_error", None),
        (errors.Unavailable("busy"), "server_error", None),
        (errors.CallTimeout("late"), "server_error", None),
    ],
)
def test_errors_are_openais(error, kind, param):
    expected = {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}
    assert json.loads(API.error(error, "req_1")) == expected
    assert API.stream_error(error, "req_1") == b"data: " + API.error(error, "req_1") + b"\n\n"


FIELDS = (
    "model messages role content type text image_url url detail input_audio data format file file_data filename "
    "tool_calls id function name arguments tool_call_id tools tool_choice parameters response_format json_schema "
    "schema description strict stop n stream stream_options include_usage max_tokens reasoning_effort thinking_blocks "
    "extra_content google thought_signature refusal cache_control ttl temperature seed user modalities"
)
NAMES = st.sampled_from(FIELDS.split())
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "tool",
        "system",
        "function",
        "text",
        "image_url",
        "file",
        "json_schema",
        "data:a/b;base64,x",
        "{}",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
TURNS = st.lists(st.fixed_dictionaries({"role": WORDS}, optional={"content": JSON, "tool_calls": JSON}), min_size=1)


@given(st.fixed_dictionaries({"model": st.just("m"), "messages": TURNS}), st.dictionaries(NAMES, JSON, max_size=4))
@settings(max_examples=200, deadline=None)
def test_whatever_a_client_sends_is_read_or_refused(base, more):
    try:
        API.translated(API.read(json.dumps({**more, **base}).encode()), 10)
    except InvalidRequest as error:
        assert ": " in error.message  # noqa: PT017
