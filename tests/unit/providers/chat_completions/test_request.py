import json
from typing import Any

import pytest

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
from tollhouse.providers.deepseek import DeepSeekAdapter
from tollhouse.providers.openai.adapter import OpenAIAdapter

OPENAI = OpenAIAdapter(base_url="https://api.openai.com/v1", api_key="k")
LOCAL = OpenAIAdapter(base_url="http://127.0.0.1:8000/v1", api_key="")
DEEPSEEK = DeepSeekAdapter(base_url="https://api.deepseek.com", api_key="k")
PNG = Media("image", "image/png", "aWk=")


def encoded(*messages: Message, adapter: Any = OPENAI, **fields: Any) -> Any:
    request = ProviderRequest(
        **{"model": "gpt-5", "messages": messages or (Message("user", "x"),), "max_tokens": 9, **fields}
    )
    return json.loads(adapter.encode(request).body)


def test_the_fullest_request_is_golden():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    body = encoded(
        Message("system", (Text("Be"), Text("brief."))),
        Message("user", (Text("See"), PNG, Media("image", url="https://x.example/a", detail="low"))),
        Message("assistant", (Thinking("hm", "sig"), Text("Look"), ToolCall("c1", "f", '{"a":1}', "google"))),
        Message("user", (ToolResult("c1", "f", (Text("A"), PNG), is_error=True), Text("And?"))),
        Message(
            "user", (Media("audio", "audio/mp3", "bXAz"), Media("document", "application/pdf", "cGRm", name="a.pdf"))
        ),
        tools=(Tool("f", "does", schema, is_strict=True), Tool("g")),
        tool_choice=ToolChoice("named", "f"),
        allows_parallel_calls=False,
        reasoning=Reasoning(effort="low"),
        is_json=True,
        top_p=0.0,
        seed=0,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        user="u",
        stream=True,
    )
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aWk="}}
    assert body == {
        "model": "gpt-5",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    picture,
                    {"type": "image_url", "image_url": {"url": "https://x.example/a", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": "Look",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "Error: A"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Result of the tool call c1:"},
                    picture,
                    {"type": "text", "text": "And?"},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "bXAz", "format": "mp3"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,cGRm"},
                    },
                ],
            },
        ],
        "max_completion_tokens": 9,
        "response_format": {"type": "json_object"},
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "does", "parameters": schema, "strict": True},
            },
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "top_p": 0.0,
        "seed": 0,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_pictures_of_results_wait_until_all_results_are_given():
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))
    written = encoded(
        Message("assistant", calls),
        Message("user", (ToolResult("a", "f", (PNG,)),)),
        Message("user", (ToolResult("b", "f", (Text("B"),)),)),
        Message("assistant", "Fine"),
    )["messages"]
    assert [m["role"] for m in written] == ["assistant", "tool", "tool", "user", "assistant"]
    assert written[0]["content"] is None
    assert written[1]["content"], "a result is never empty where there is one"
    assert [part["type"] for part in written[3]["content"]] == ["text", "image_url"]


def test_a_document_of_plain_text_goes_over_as_text():
    document = Media("document", "text/plain", "w6Rwcg==", name="a.txt")
    assert encoded(Message("user", (document,)))["messages"] == [{"role": "user", "content": "a.txt\n\näpr"}]


def test_a_schema_has_its_name():
    body = encoded(response_schema={"type": "object"}, schema_name="city")
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(0, "none"), (1, "low"), (4_000, "low"), (5_000, "medium"), (16_000, "medium"), (17_000, "high")],
)
def test_a_budget_becomes_the_effort_that_comes_closest(budget, effort):
    assert encoded(reasoning=Reasoning(budget_tokens=budget))["reasoning_effort"] == effort


def test_models_that_never_reason_are_not_asked_to():
    assert "reasoning_effort" not in encoded(model="gpt-4o", reasoning=Reasoning(effort="none"))
    with pytest.raises(InvalidRequest, match=r"^reasoning: gpt-4o does not reason"):
        encoded(model="gpt-4o", reasoning=Reasoning(effort="low"))
    assert encoded(model="gpt-4o", reasoning=Reasoning(effort="low"), adapter=LOCAL)["reasoning_effort"] == "low"


def test_top_k_goes_to_servers_other_than_openais():
    assert encoded(top_k=5, adapter=LOCAL)["top_k"] == 5
    for adapter in (OPENAI, DEEPSEEK):
        with pytest.raises(InvalidRequest, match=r"^top_k: "):
            encoded(top_k=5, adapter=adapter)


def test_a_choice_among_no_tools_is_not_sent():
    body = encoded(tool_choice=ToolChoice("none"), allows_parallel_calls=True)
    assert body.keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("message", "begins"),
    [
        (Message("system", (PNG,)), r"messages\[0\].content\[0\]: image cannot stand in a turn of the system"),
        (Message("assistant", (Text("x"), PNG)), r"messages\[0\].content\[1\]: image cannot"),
        (Message("assistant", (ToolResult("a", "f", ()),)), r"messages\[0\].content\[0\]: a tool's result cannot"),
        (Message("system", (ToolResult("a", "f", ()),)), r"messages\[0\].content: a tool's result belongs"),
        (
            Message("user", (ToolResult("a", "f", ()), ToolCall("a", "f", "{}"))),
            r"messages\[0\].content\[1\]: a tool call",
        ),
        (Message("user", (Media("document", url="https://x.example"),)), r"messages\[0\].content\[0\].url: "),
        (Message("user", (Media("image", base64="aWk="),)), r"messages\[0\].content\[0\].media_type: "),
        (Message("user", (Media("audio", "audio/ogg", "aWk="),)), r"messages\[0\].content\[0\].media_type: .*WAV"),
        (Message("user", (Media("document", "text/plain", "/w=="),)), r"messages\[0\].content\[0\].base64: "),
        (
            Message("user", (ToolResult("a", "f", (Media("audio", "x", "y"),)),)),
            r"messages\[0\].content\[0\].content\[0\]",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(message, begins):
    with pytest.raises(InvalidRequest, match=f"^{begins}"):
        encoded(message)


def test_deepseek_gets_texts_and_its_thinking_back_with_its_calls():
    written = encoded(
        Message("system", (Text("A"), Text("B"))),
        Message("user", "C"),
        Message("assistant", (Thinking("hm"), Text("D"), ToolCall("c", "f", "{}"))),
        Message("user", (ToolResult("c", "f", (Text("E"),)), Text("F"))),
        Message("user", "G"),
        Message("assistant", (Thinking("secret", "anthropic's"), ToolCall("d", "f", "{}"))),
        Message("user", (ToolResult("d", "f", ()),)),
        adapter=DEEPSEEK,
    )["messages"]
    function = {"name": "f", "arguments": "{}"}
    assert written == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "C"},
        {
            "role": "assistant",
            "content": "D",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
            "reasoning_content": "hm",
        },
        {"role": "tool", "tool_call_id": "c", "content": "E"},
        {"role": "user", "content": "F\n\nG"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "d", "type": "function", "function": function}],
            "reasoning_content": "",
        },
        {"role": "tool", "tool_call_id": "d", "content": ""},
    ]


def test_deepseeks_thinking_is_switched_and_graded():
    off = encoded(adapter=DEEPSEEK, reasoning=Reasoning(effort="none"))
    assert (off["thinking"], "reasoning_effort" in off) == ({"type": "disabled"}, False)
    high = encoded(adapter=DEEPSEEK, reasoning=Reasoning(budget_tokens=30_000))
    assert (high["thinking"], high["reasoning_effort"]) == ({"type": "enabled"}, "high")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"tools": (Tool("f"),), "allows_parallel_calls": False}, "allows_parallel_calls"),
        ({"messages": (Message("user", (PNG,)),)}, r"messages\[0\].content\[0\]: .*text only"),
    ],
)
def test_what_deepseek_does_not_know_is_refused_by_name(fields, name):
    with pytest.raises(InvalidRequest, match=f"^{name}"):
        encoded(adapter=DEEPSEEK, **fields)


CLIENTS = {"model": "mine", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 5, "odd": [None]}


def test_a_relayed_request_changes_its_model_alone():
    wire = OPENAI.relay(
        CLIENTS, model="gpt-5", stream=False, headers={"openai-beta": "x=1", "openai-organization": "o"}
    )
    assert json.loads(wire.body) == {**CLIENTS, "model": "gpt-5"}
    assert wire.headers == (("authorization", "Bearer k"), ("openai-beta", "x=1"))
    assert wire.path == "/chat/completions"


@pytest.mark.parametrize("adapter", [LOCAL, DEEPSEEK])
def test_a_relayed_limit_gets_the_name_that_binds_the_server(adapter):
    body = json.loads(adapter.relay(CLIENTS, model="llama", stream=False, headers={}).body)
    assert (body["max_tokens"], "max_completion_tokens" in body) == (5, False)


def test_dialects_are_what_the_provider_serves_itself():
    assert OPENAI.dialect("chat") is OPENAI
    assert DEEPSEEK.dialect("chat") is DEEPSEEK
    assert DEEPSEEK.dialect("embeddings") is None
    assert OPENAI.dialect("messages") is None


CLOSED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/d"}},
    "required": ["a"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (None, True),
        (nested(9), True),
        (nested(900), False),
        (CLOSED, True),
        ({**CLOSED, "$defs": {"d": {"type": "integer", "minimum": 1}}}, True),
        (OPEN, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "$defs": {"d": OPEN}}, False),
        ({**CLOSED, "properties": {"a": {"type": "array", "items": OPEN}}}, False),
        ({**CLOSED, "properties": {"a": {"anyOf": [OPEN, {"type": "null"}]}}}, False),
    ],
)
def test_a_tool_is_strict_where_openai_can_enforce_its_schema(schema, strict):
    for asked in (True, False):
        (tool,) = encoded(tools=(Tool("f", parameters=schema, is_strict=asked),))["tools"]
        assert tool["function"]["strict"] is (asked and strict)
