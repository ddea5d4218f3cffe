import json
from collections import Counter
from typing import Any

import pytest

from harness.recorded import RECORDED
from tollhouse.completions.wire.responses.api import ResponsesApi
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    Media,
    Message,
    ProviderRequest,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

API = ResponsesApi()
PNG = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION: dict[str, Any] = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": None}


def read(**body: Any):
    return API.read(json.dumps({"model": "claude", "input": "Hello", **body}).encode())


def translated(**body: Any) -> ProviderRequest:
    return API.translated(read(**body), 100)


def turns(*items: dict[str, Any], **body: Any) -> tuple[Message, ...]:
    return translated(input=list(items), **body).messages


def call(n: int, **changes: Any) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": f"tool{n}", "arguments": "{}"}
    return {**item, "status": "completed", **changes}


def output(n: int, said: Any = "Done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{n}", "output": said}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def test_the_smallest_request_is_read():
    asked = read()
    assert (asked.model, asked.max_tokens, asked.answers, asked.is_stream) == ("claude", None, 1, False)
    assert (asked.user, asked.max_searches, asked.reads_stored) == (None, 0, False)
    assert asked.body == {"model": "claude", "input": "Hello"}


def test_what_every_call_needs_is_read():
    asked = read(max_output_tokens=77, stream=True, user="user-1")
    assert (asked.max_tokens, asked.is_stream, asked.user) == (77, True, "user-1")
    assert read(user="user-1", safety_identifier="hashed").user == "hashed"


@pytest.mark.parametrize(
    ("tools", "max_tool_calls", "searches"),
    [
        ([{"type": "web_search"}], None, 10),
        ([{"type": "web_search"}], 3, 3),
        ([{"type": "web_search_preview_2025_03_11"}], None, 10),
        ([{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}], None, 10),
        ([FUNCTION], 3, 0),
        ([], None, 0),
    ],
)
def test_searches_are_bounded_and_the_bound_binds_the_provider(tools, max_tool_calls, searches):
    asked = read(tools=tools, max_tool_calls=max_tool_calls)
    assert asked.max_searches == searches
    assert asked.reads_stored is (searches > 0)
    body = API.limited(asked, 50)
    assert body["max_output_tokens"] == 50
    assert body["max_tool_calls"] == (searches or max_tool_calls)


@pytest.mark.parametrize(
    ("fields", "steps", "told"),
    [
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]}, 10, 10),
        ({"tools": [{"type": "mcp", "server_label": "x"}], "max_tool_calls": 4}, 4, 4),
        ({"tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}], "max_tool_calls": 4}, 4, 4),
        ({"context_management": [{"type": "compaction", "compact_threshold": 1000}]}, 1, None),
        ({"tools": [FUNCTION]}, 0, None),
    ],
)
def test_steps_that_read_everything_again_are_bounded_for_the_provider_too(fields, steps, told):
    asked = read(**fields)
    assert asked.max_steps == steps
    assert API.limited(asked, 50).get("max_tool_calls") == told


def test_a_tool_that_an_item_adds_counts_as_offered():
    item = {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}
    assert read(input=[item, {"role": "user", "content": "Hi"}]).max_searches == 10


def test_a_relayed_body_keeps_what_the_client_sent():
    body = {"model": "gpt", "input": "Hi", "of_tomorrow": {"a": 1}, "max_output_tokens": 900, "stream": True}
    assert API.limited(API.read(json.dumps(body).encode()), 50) == {**body, "max_output_tokens": 50}


@pytest.mark.parametrize(
    "body",
    [
        {"previous_response_id": "resp_1"},
        {"previous_response_id": "resp_1", "input": None},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}, "input": None},
        {"prompt": {"id": "pmpt_1"}, "input": None},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example/b.pdf"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        {"input": [output(1, [{"type": "input_image", "file_id": "file-1"}])]},
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]},
    ],
)
def test_input_that_is_not_in_the_body_is_told(body):
    assert read(**body).reads_stored is True


def test_a_stored_prompt_may_bring_a_search_tool_along():
    asked = read(prompt={"id": "pmpt_1"})
    assert asked.max_searches == 10
    assert API.limited(asked, 5)["max_tool_calls"] == 10


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"model": None}, "model: "),
        ({"model": 3}, "model: "),
        ({"model": "a\nb"}, "model: "),
        ({"input": None}, "input: "),
        ({"input": ""}, "input: "),
        ({"input": []}, "input: "),
        ({"input": {"role": "user"}}, "input: "),
        ({"max_output_tokens": 0}, "max_output_tokens: "),
        ({"max_output_tokens": True}, "max_output_tokens: "),
        ({"max_tool_calls": -1}, "max_tool_calls: "),
        ({"stream": "yes"}, "stream: "),
        ({"user": 7}, "user: "),
        ({"background": True}, "background: "),
        ({"background": "yes"}, "background: "),
        ({"service_tier": "priority"}, "service_tier: "),
        ({"tools": [FUNCTION, {"type": "image_generation"}]}, "tools[1].type: image_generation"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0].type: code_interpreter"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type: file_search"),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools[0].type: shell"),
        ({"tools": [{"type": "x_search"}]}, "tools[0].type: x_search"),
        (
            {"input": [{"type": "additional_tools", "tools": [{"type": "file_search"}]}]},
            "input[0].tools[0].type: file_search",
        ),
    ],
)
def test_what_no_call_can_do_without_or_with_is_refused_by_name(body, begins):
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    assert caught.value.message.startswith(begins)


def test_a_shell_of_the_clients_own_is_no_cost():
    assert read(tools=[{"type": "shell", "environment": {"type": "local"}}, {"type": "local_shell"}]).max_searches == 0


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000, b'{"model":"\\ud800"}'])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(InvalidRequest):
        API.read(raw)


def test_the_fullest_request_is_translated():
    asked = read(
        instructions="Be brief.",
        tools=[{**FUNCTION, "description": "The weather.", "strict": True}],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={
            "format": {"type": "json_schema", "name": "said", "schema": SCHEMA, "strict": True},
            "verbosity": "medium",
        },
        reasoning={"effort": "high", "summary": "auto"},
        temperature=0.5,
        top_p=0.9,
        user="user-1",
        stream=True,
        stream_options={"include_obfuscation": False},
        store=True,
        metadata={"case": "7"},
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        prompt_cache_key="k",
        background=False,
        top_logprobs=0,
        service_tier="default",
        max_output_tokens=900,
    )
    assert API.translated(asked, 500) == ProviderRequest(
        model="claude",
        messages=(Message("system", "Be brief."), Message("user", "Hello")),
        max_tokens=500,
        temperature=0.5,
        response_schema=SCHEMA,
        schema_name="said",
        tools=(Tool("weather", "The weather.", SCHEMA, is_strict=True),),
        tool_choice=ToolChoice("named", "weather"),
        allows_parallel_calls=False,
        reasoning=Reasoning("high"),
        top_p=0.9,
        user="user-1",
        stream=True,
    )


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_is_translated(choice):
    assert translated(tool_choice=choice, tools=[FUNCTION]).tool_choice == ToolChoice(choice)


def test_the_tools_that_are_allowed_are_those_that_are_offered():
    other = {**FUNCTION, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    request = translated(tool_choice=choice, tools=[other, FUNCTION])
    assert request.tools == (Tool("weather", None, SCHEMA),)
    assert request.tool_choice == ToolChoice("required")


def test_json_without_a_schema_and_plain_text_are_told_apart():
    assert translated(text={"format": {"type": "json_object"}}).is_json is True
    assert translated(text={"format": {"type": "text"}}) == translated()


def test_a_schemas_description_goes_into_the_schema():
    wanted = {"type": "json_schema", "name": "said", "schema": SCHEMA, "description": "A city."}
    assert translated(text={"format": wanted}).response_schema == {**SCHEMA, "description": "A city."}


def test_turns_of_all_roles_are_translated():
    assert turns(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One"}]},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
        {"role": "system", "content": "Be kind."},
    ) == (
        Message("system", "Be brief."),
        Message("user", (Text("One"),)),
        Message("assistant", "Two"),
        Message("user", "Three"),
        Message("system", "Be kind."),
    )


def test_pictures_documents_and_recordings_are_translated():
    (message,) = turns(
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "input_image", "image_url": PNG, "detail": "high"},
                {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "auto"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"},
                {"type": "input_file", "file_data": "JVBERg==", "filename": "a.pdf"},
                {"type": "input_file", "file_url": "https://a.example/b.pdf?x=1"},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        }
    )
    assert message.content == (
        Text("Look"),
        Media("image", "image/png", "iVBORw0KGgo=", detail="high"),
        Media("image", url="https://a.example/b.png", detail="auto"),
        Media("document", "application/pdf", "JVBERg==", name="a.pdf"),
        Media("document", "application/pdf", "JVBERg==", name="a.pdf"),
        Media("document", "application/pdf", url="https://a.example/b.pdf?x=1"),
        Media("audio", "audio/wav", "UklGRg=="),
    )


@pytest.mark.parametrize("url", ["https://[", "http://[::1/a.pdf", "https://a.example"])
def test_an_odd_address_of_a_document_is_passed_on_as_it_is(url):
    (message,) = turns({"role": "user", "content": [{"type": "input_file", "file_url": url}]})
    (part,) = message.parts
    assert isinstance(part, Media)
    assert (part.kind, part.url) == ("document", url)


def test_what_the_model_made_at_once_is_one_turn_and_so_are_its_results():
    picture = [{"type": "input_text", "text": "A map"}, {"type": "input_image", "image_url": PNG}]
    assert turns(
        {"role": "user", "content": "Go"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAABowf2_"},
        said("I look."),
        call(1, arguments='{"a":1}'),
        call(2, extra_content={"google": {"thought_signature": "c2ln"}}),
        output(2, picture),
        output(1),
        call(3),
        output(3),
        said("Found."),
        {"role": "user", "content": "Thanks"},
    ) == (
        Message("user", "Go"),
        Message(
            "assistant",
            (Text("I look."), ToolCall("call_1", "tool1", '{"a":1}'), ToolCall("call_2", "tool2", "{}", "c2ln")),
        ),
        Message(
            "user",
            (
                ToolResult("call_2", "tool2", (Text("A map"), Media("image", "image/png", "iVBORw0KGgo="))),
                ToolResult("call_1", "tool1", (Text("Done"),)),
            ),
        ),
        Message("assistant", (ToolCall("call_3", "tool3", "{}"),)),
        Message("user", (ToolResult("call_3", "tool3", (Text("Done"),)),)),
        Message("assistant", (Text("Found."),)),
        Message("user", "Thanks"),
    )


def test_a_result_without_its_call_has_no_name():
    assert turns(output(9)) == (Message("user", (ToolResult("call_9", "", (Text("Done"),)),)),)


def test_thinking_of_openai_is_left_out_and_that_of_others_comes_back():
    def reasoning(sealed: str | None, *summary: str) -> dict[str, Any]:
        texts = [{"type": "summary_text", "text": text} for text in summary]
        return {"type": "reasoning", "id": "rs_1", "summary": texts, "encrypted_content": sealed}

    assert turns(
        {"role": "user", "content": "Go"},
        reasoning("gAAAAABowf2_", "Sealed by OpenAI."),
        reasoning(None, "Signed by nobody."),
        reasoning("tollhouse-signed:c2ln", "Let me see."),
        reasoning("tollhouse-redacted:c2VhbGVk"),
        call(1),
        output(1),
    )[1].content == (
        Thinking("Let me see.", signature="c2ln"),
        Thinking("", redacted="c2VhbGVk"),
        ToolCall("call_1", "tool1", "{}"),
    )


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: "),
        ({"conversation": "conv_1"}, "conversation: "),
        ({"prompt": {"id": "pmpt_1"}}, "prompt: "),
        ({"truncation": "auto"}, "truncation: "),
        ({"of_tomorrow": 1}, "of_tomorrow: "),
        ({"top_logprobs": 3}, "top_logprobs: "),
        ({"top_logprobs": False}, "top_logprobs: "),
        ({"service_tier": "flex"}, "service_tier: "),
        ({"context_management": [{"type": "compaction"}]}, "context_management: "),
        ({"moderation": {"model": "m"}}, "moderation: "),
        ({"include": ["message.output_text.logprobs"]}, "include[0]: "),
        ({"include": ["reasoning.encrypted_content", "file_search_call.results"]}, "include[1]: "),
        ({"include": "all"}, "include: "),
        ({"metadata": {"a": 1}}, "metadata.a: "),
        ({"instructions": ["a"]}, "instructions: "),
        ({"temperature": 3}, "temperature: "),
        ({"top_p": "high"}, "top_p: "),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls: "),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type: "),
        ({"tools": [FUNCTION, {"type": "custom", "name": "grep"}]}, "tools[1].type: "),
        ({"tools": [{**FUNCTION, "name": ""}]}, "tools[0].name: "),
        ({"tools": [{**FUNCTION, "parameters": []}]}, "tools[0].parameters: "),
        ({"tools": [{**FUNCTION, "strict": "yes"}]}, "tools[0].strict: "),
        ({"tools": [{**FUNCTION, "defer_loading": True}]}, "tools[0].defer_loading: "),
        ({"tools": [{**FUNCTION, "output_schema": SCHEMA}]}, "tools[0].output_schema: "),
        ({"tools": "all"}, "tools: "),
        ({"tool_choice": "any"}, "tool_choice: "),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type: "),
        ({"tool_choice": {"type": "function", "name": ""}}, "tool_choice.type: "),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.type: "),
        ({"tool_choice": {"type": "allowed_tools", "mode": "none"}, "tools": [FUNCTION]}, "tool_choice.mode: "),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools: "),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice.tools[0]: ",
        ),
        ({"text": {"verbosity": "high"}}, "text.verbosity: "),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type: "),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema: "),
        ({"text": {"format": {"type": "text", "schema": SCHEMA}}}, "text.format.schema: "),
        ({"text": "plain"}, "text: "),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort: "),
        ({"reasoning": {"effort": "low", "mode": "pro"}}, "reasoning.mode: "),
        ({"reasoning": {"summary": ["auto"]}}, "reasoning.summary: "),
        ({"prompt_cache_key": 1}, "prompt_cache_key: "),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(body, begins):
    asked = read(**body)
    with pytest.raises(InvalidRequest) as caught:
        API.translated(asked, 100)
    assert caught.value.message.startswith(begins)


USER: dict[str, Any] = {"role": "user", "content": "Go"}


@pytest.mark.parametrize(
    ("item", "begins"),
    [
        ("text", "input[1]: "),
        ({"role": "tool", "content": "x"}, "input[1].role: "),
        ({"role": ["user"], "content": "x"}, "input[1].role: "),
        ({"role": "user"}, "input[1].content: "),
        ({"role": "user", "content": []}, "input[1].content: "),
        ({"role": "user", "content": "x", "name": "Ada"}, "input[1].name: "),
        ({"role": "user", "content": ["x"]}, "input[1].content[0]: "),
        ({"role": "user", "content": [{"type": "output_text", "text": "x"}]}, "input[1].content[0].type: "),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0].text: "),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x", "of_tomorrow": 1}]},
            "input[1].content[0].of",
        ),
        ({"role": "system", "content": [{"type": "input_image", "image_url": PNG}]}, "input[1].content[0].type: "),
        ({"role": "assistant", "content": [{"type": "input_file"}]}, "input[1].content[0].type: "),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[1].content[0].file_id: "),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input[1].content[0].image_url: "),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "some"}]},
            "input[1].content[0].detail: ",
        ),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[1].content[0].file_id: "),
        ({"role": "user", "content": [{"type": "input_file", "file_data": "QQ=="}]}, "input[1].content[0].file_data: "),
        (
            {"role": "user", "content": [{"type": "input_file", "file_url": "ftp://x"}]},
            "input[1].content[0].file_url: ",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "QQ==", "format": "ogg"}}]},
            "input[1].content[0].input_audio.format: ",
        ),
        ({"type": "item_reference", "id": "msg_1"}, "input[1].type: "),
        ({"type": "web_search_call", "id": "ws_1"}, "input[1].type: "),
        ({"type": "compaction", "encrypted_content": "x"}, "input[1].type: "),
        ({"type": ["message"]}, "input[1].type: "),
        (call(1, arguments="["), "input[1].arguments: "),
        (call(1, arguments="[1]"), "input[1].arguments: "),
        (call(1, call_id=None), "input[1].call_id: "),
        (call(1, name=None), "input[1].name: "),
        (call(1, namespace="n"), "input[1].namespace: "),
        (output(1, None), "input[1].output: "),
        (output(1, [{"type": "output_text", "text": "x"}]), "input[1].output[0].type: "),
        ({"type": "function_call_output", "output": "x"}, "input[1].call_id: "),
        ({"type": "reasoning", "summary": "x"}, "input[1].summary: "),
    ],
)
def test_an_item_that_cannot_be_translated_is_refused_by_its_place(item, begins):
    asked = read(input=[USER, item])
    with pytest.raises(InvalidRequest) as caught:
        API.translated(asked, 100)
    assert caught.value.message.startswith(begins)


def test_every_recorded_request_is_translated_or_refused_by_name():
    file = RECORDED / "openai-responses.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    refused: Counter[str] = Counter()
    for line in file.read_text(encoding="utf-8").splitlines():
        body = json.loads(line)["request"]
        try:
            request = API.translated(API.read(json.dumps(body).encode()), 100)
        except InvalidRequest as error:
            refused[error.message.partition(":")[0]] += 1
            continue
        assert (request.model, request.stream) == (body["model"], body.get("stream", False))
        assert [tool.name for tool in request.tools] == [tool["name"] for tool in body.get("tools") or ()]
    assert refused == {
        # Tools that OpenAI runs itself, or that are not functions; and what such tools leave in a conversation.
        "tools[0].type": 35,
        "input[1].type": 1,
        "input[2].type": 1,
        "input[3].type": 6,
        # What OpenAI has stored, or does beside the answer.
        "conversation": 6,
        "background": 6,
        "previous_response_id": 4,
        "context_management": 4,
        "reasoning.context": 4,
        "moderation": 2,
        "include[0]": 1,
        "input[3].output[0].file_id": 2,
        "input[4].content[0].file_id": 1,
        # OpenAI itself refused it: it is below zero.
        "temperature": 1,
    }


def test_input_of_openais_reasoning_alone_is_no_input():
    asked = read(input=[{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}], instructions="Be brief.")
    with pytest.raises(InvalidRequest, match=r"^input: "):
        API.translated(asked, 100)
