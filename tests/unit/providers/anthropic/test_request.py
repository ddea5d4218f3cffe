import json
from base64 import b64encode
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.request import encode_request
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

HELLO = Message("user", "Hello")
CALL = ToolCall("call_1", "weather", '{"city": "Oslo"}')
WEATHER = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
LOOK: dict[str, Any] = {"kind": "image", "media_type": "image/png", "base64": "aGk="}


def encoded(*messages: Message, **fields: Any) -> dict[str, Any]:
    request = ProviderRequest(model="claude-haiku-4-5", messages=messages or (HELLO,), max_tokens=400, **fields)
    body: dict[str, Any] = json.loads(encode_request(request))
    return body


def test_a_whole_tool_conversation_is_golden():
    body = encoded(
        Message("system", (Text("Be brief.", cache="1h"), Text("Be kind."))),
        Message("user", (Text("Weather?", cache="5m"), Media(**LOOK, detail="low"))),
        Message("assistant", (Thinking("hm", signature="sig"), Thinking("", redacted="xyz"), Text("Wait."), CALL)),
        Message(
            "user",
            (ToolResult("call_1", "weather", (Text("Rain"), Media(**LOOK)), is_error=True), Text("And tomorrow?")),
        ),
        tools=(WEATHER, Tool("noop", is_strict=True, cache="5m")),
        tool_choice=ToolChoice("auto"),
        allows_parallel_calls=False,
        top_p=0.5,
        top_k=3,
        user="u-7",
        stream=True,
    )
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    assert body == {
        "model": "claude-haiku-4-5",
        "max_tokens": 400,
        "system": [
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "text", "text": "Be kind."},
        ],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}, png],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_1",
                        "content": [{"type": "text", "text": "Rain"}, png],
                        "is_error": True,
                    },
                    {"type": "text", "text": "And tomorrow?"},
                ],
            },
        ],
        "tools": [
            {
                "name": "weather",
                "description": "Tells the weather",
                "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
            {
                "name": "noop",
                "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
                "strict": True,
                "cache_control": {"type": "ephemeral"},
            },
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "top_p": 0.5,
        "top_k": 3,
        "metadata": {"user_id": "u-7"},
        "stream": True,
    }


def test_results_in_several_turns_are_one_turn_with_the_results_first():
    body = encoded(
        HELLO,
        Message("assistant", (CALL, ToolCall("call_2", "noop", ""))),
        Message("user", (Text("By the way"), ToolResult("call_1", "weather", (Text("Rain"),)))),
        Message("user", (ToolResult("call_2", "noop", ()),)),
        Message("user", "Well?"),
    )
    assert body["messages"][1]["content"][1] == {"type": "tool_use", "id": "call_2", "name": "noop", "input": {}}
    assert body["messages"][2:] == [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain"},
                {"type": "tool_result", "tool_use_id": "call_2"},
                {"type": "text", "text": "By the way"},
                {"type": "text", "text": "Well?"},
            ],
        }
    ]


def test_arguments_reach_the_vendor_digit_for_digit():
    request = ProviderRequest(
        model="m",
        messages=(HELLO, Message("assistant", (ToolCall("a", "f", '{"n": 1.10, "m": 12345678901234567890}'),))),
        max_tokens=1,
    )
    assert b'"input":{"n": 1.10, "m": 12345678901234567890}' in encode_request(request)


@pytest.mark.parametrize("arguments", ["[]", "no json", '"text"', "{", '{"a":"\\ud800"}', '{"a":' * 2000])
def test_arguments_that_are_no_object_are_refused_by_name(arguments):
    with pytest.raises(InvalidRequest, match=r"^messages\[1\]\.content\[0\]: expected a tool call's arguments"):
        encoded(HELLO, Message("assistant", (ToolCall("a", "f", arguments),)))


def test_ids_of_other_vendors_become_ids_that_anthropic_takes_at_both_ends():
    body = encoded(
        HELLO,
        Message("assistant", (ToolCall("functions.f:0", "f", "{}"),)),
        Message("user", (ToolResult("functions.f:0", "f", ()),)),
    )
    assert body["messages"][1]["content"][0]["id"] == "functions_f_0"
    assert body["messages"][2]["content"][0]["tool_use_id"] == "functions_f_0"


def test_what_says_nothing_to_anthropic_is_left_out():
    body = encoded(
        HELLO,
        Message("assistant", (Thinking("of another vendor"), Text(""), Text("Hi"))),
        Message("user", (Text("One"),)),
        Message("assistant", (Thinking("of another vendor"),)),
        Message("user", "Two"),
    )
    assert body["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Media("image", url="https://x/y.png"), {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}),
        (
            Media("document", media_type="application/pdf", base64="aGk=", name="a.pdf", cache="5m"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
                "title": "a.pdf",
                "cache_control": {"type": "ephemeral"},
            },
        ),
        (Media("document", url="https://x/y"), {"type": "document", "source": {"type": "url", "url": "https://x/y"}}),
        (
            Media("document", media_type="text/markdown", base64=b64encode("Größe".encode()).decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Größe"}},
        ),
    ],
)
def test_media_are_golden(part, block):
    assert encoded(Message("user", (part,)))["messages"][0]["content"] == [block]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (Media("audio", media_type="audio/wav", base64="aGk="), "take no audio"),
        (Media("image", base64="aGk="), "expected an address, or data and their media type"),
        (
            Media("document", media_type="application/msword", base64="aGk="),
            "documents of type application/pdf or text",
        ),
        (Media("document", media_type="text/plain", base64="not base64!"), "expected text in UTF-8"),
        (Media("document", media_type="text/plain", base64="/w=="), "expected text in UTF-8"),
    ],
)
def test_media_that_cannot_be_said_are_refused_by_name(part, problem):
    with pytest.raises(InvalidRequest, match=rf"^messages\[1\]\.content\[1\]: .*{problem}"):
        encoded(HELLO, Message("user", (Text("See"), part)))


def test_a_system_prompt_takes_text_only():
    with pytest.raises(InvalidRequest, match=r"^messages\[0\]\.content\[1\]: "):
        encoded(Message("system", (Text("See"), Media(**LOOK))), HELLO)


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"allows_parallel_calls": True}, None),
        ({"allows_parallel_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": ToolChoice("none"), "allows_parallel_calls": False}, {"type": "none"}),
        ({"tool_choice": ToolChoice("required")}, {"type": "any"}),
        (
            {"tool_choice": ToolChoice("named", "weather"), "allows_parallel_calls": False},
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_which_tool_is_called_is_golden(fields, choice):
    assert encoded(tools=(WEATHER,), **fields).get("tool_choice") == choice


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_a_choice_that_asks_for_nothing_is_not_sent_without_tools(mode):
    for parallel in (None, False):
        assert "tool_choice" not in encoded(tool_choice=ToolChoice(mode), allows_parallel_calls=parallel)
    assert encoded(tool_choice=ToolChoice("required"))["tool_choice"] == {"type": "any"}


def test_parallel_calls_without_tools_are_no_concern():
    assert "tool_choice" not in encoded(allows_parallel_calls=False)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"seed": 0}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"is_json": True}, "is_json"),
    ],
)
def test_what_anthropic_has_no_word_for_is_refused_by_name(fields, name):
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        encoded(**fields)


def test_penalties_of_nothing_and_json_of_a_schema_are_said():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    body = encoded(presence_penalty=0.0, frequency_penalty=0, is_json=True, response_schema=schema, schema_name="x")
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


def test_effort_and_schema_share_their_place():
    schema = {"type": "string"}
    request = ProviderRequest(
        model="claude-opus-4-8",
        messages=(HELLO,),
        max_tokens=400,
        reasoning=Reasoning(effort="low"),
        response_schema=schema,
    )
    body = json.loads(encode_request(request))
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}


def test_a_schema_nested_without_end_is_a_refusal():
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"a": schema}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        encoded(response_schema=schema)
