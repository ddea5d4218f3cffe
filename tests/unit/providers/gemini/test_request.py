import json
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    Media,
    Message,
    Part,
    ProviderRequest,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollhouse.providers.gemini.adapter import GeminiAdapter

ADAPTER = GeminiAdapter(base_url="https://generativelanguage.googleapis.com", api_key="")
FOREIGN = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False},
)


def encoded(*messages: Message, model: str = "gemini-2.5-flash", **fields: Any) -> dict[str, Any]:
    request = ProviderRequest(model=model, messages=messages or (Message("user", "x"),), max_tokens=9, **fields)
    body: dict[str, Any] = json.loads(ADAPTER.encode(request).body)
    return body


def user(*parts: Part) -> Message:
    return Message("user", parts)


def model(*parts: Part) -> Message:
    return Message("assistant", parts)


def result(call_id: str, name: str, *content: Text | Media, is_error: bool = False) -> ToolResult:
    return ToolResult(call_id, name, content, is_error=is_error)


def test_a_stream_is_asked_for_in_events():
    request = ProviderRequest(model="gemini-x", messages=(Message("user", "x"),), max_tokens=1, stream=True)
    assert ADAPTER.encode(request).path == "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"


def test_media_are_inline_or_by_address():
    parts = (
        Text("Look:", cache="5m"),
        Media("image", "image/png", base64="aGk=", detail="low"),
        Media("document", "application/pdf", url="https://example.com/a.pdf", name="a.pdf"),
        Media("image", url="https://example.com/b"),
    )
    assert encoded(user(*parts))["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "Look:"},
                {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/a.pdf"}},
                {"fileData": {"fileUri": "https://example.com/b"}},
            ],
        }
    ]


def test_a_tool_conversation_is_golden():
    body = encoded(
        Message("user", "Weather?"),
        model(
            Thinking("hm", signature="from somebody"),
            Text("Let me see."),
            ToolCall("c1", "weather", '{"city":"Rome"}', signature="c2ln"),
            ToolCall("c2", "weather", '{"city":"Oslo"}'),
        ),
        user(result("c1", "weather", Text("sunny"))),
        user(result("c2", "weather", Text("no such"), Text("city"), is_error=True)),
        Message("user", "And?"),
        tools=(WEATHER, Tool("noop")),
        tool_choice=ToolChoice("auto"),
        model="gemini-3-flash-preview",
    )
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Weather?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {
                    "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Rome"}},
                    "thoughtSignature": "c2ln",
                },
                {"functionCall": {"id": "c2", "name": "weather", "args": {"city": "Oslo"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "weather", "response": {"output": "sunny"}}},
                {"functionResponse": {"id": "c2", "name": "weather", "response": {"error": "no such\ncity"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
    ]
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Tells the weather.",
                    "parametersJsonSchema": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "additionalProperties": False,
                    },
                },
                {"name": "noop"},
            ]
        }
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


@pytest.mark.parametrize(
    ("name", "signatures"), [("gemini-3.5-flash", [FOREIGN, None]), ("gemini-2.5-pro", [None, None])]
)
def test_a_call_that_no_gemini_made_says_so_where_a_signature_is_required(name, signatures):
    calls = model(ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))
    parts = encoded(Message("user", "x"), calls, model=name)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == signatures


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "gemini-3-flash-preview",
            [
                {
                    "functionResponse": {
                        "id": "c",
                        "name": "f",
                        "response": {"output": "seen"},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
                    }
                }
            ],
        ),
        (
            "gemini-2.5-flash",
            [
                {"functionResponse": {"id": "c", "name": "f", "response": {"output": "seen"}}},
                {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
            ],
        ),
    ],
)
def test_what_a_result_shows_stands_in_it_or_beside_it(name, expected):
    shown = user(result("c", "f", Text("seen"), Media("image", "image/png", base64="aGk=")))
    body = encoded(Message("user", "x"), model(ToolCall("c", "f", "{}")), shown, model=name)
    assert body["contents"][2]["parts"] == expected


@pytest.mark.parametrize(
    ("tools", "choice", "expected"),
    [
        ((WEATHER,), None, None),
        ((), ToolChoice("none"), None),
        ((WEATHER,), ToolChoice("none"), {"mode": "NONE"}),
        ((WEATHER,), ToolChoice("required"), {"mode": "ANY"}),
        ((WEATHER,), ToolChoice("named", "weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
        ((Tool("f", is_strict=True),), None, {"mode": "VALIDATED"}),
        ((Tool("f", is_strict=True),), ToolChoice("required"), {"mode": "ANY"}),
        ((Tool("f", is_strict=False),), None, None),
    ],
)
def test_tool_choices(tools, choice, expected):
    body = encoded(tools=tools, tool_choice=choice)
    assert body.get("toolConfig") == (expected and {"functionCallingConfig": expected})


def test_every_parameter_of_generation():
    body = encoded(
        temperature=0.0,
        top_p=0.5,
        top_k=40,
        seed=0,
        presence_penalty=-1.0,
        frequency_penalty=0.0,
        stop=("A", "B"),
        is_json=True,
        user="u-1",
        allows_parallel_calls=True,
    )
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "generationConfig": {
            "maxOutputTokens": 9,
            "temperature": 0.0,
            "topP": 0.5,
            "topK": 40,
            "seed": 0,
            "presencePenalty": -1.0,
            "frequencyPenalty": 0.0,
            "stopSequences": ["A", "B"],
            "responseMimeType": "application/json",
        },
    }


@pytest.mark.parametrize(
    ("name", "reasoning", "expected"),
    [
        ("gemini-2.5-flash", Reasoning(effort="none"), {"thinkingBudget": 0}),
        ("gemini-2.5-flash", Reasoning(budget_tokens=0), {"thinkingBudget": 0}),
        ("gemini-2.5-flash", Reasoning(effort="low"), {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-pro", Reasoning(effort="max"), {"thinkingBudget": 32_768, "includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning(effort="max"), {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning(budget_tokens=60_000), {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("gemini-2.5-pro", Reasoning(budget_tokens=2000), {"thinkingBudget": 2000, "includeThoughts": True}),
        ("gemini-3-flash-preview", Reasoning(effort="minimal"), {"thinkingLevel": "minimal", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", Reasoning(effort="minimal"), {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3-pro-preview", Reasoning(effort="medium"), {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", Reasoning(effort="medium"), {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-4-argon", Reasoning(effort="xhigh"), {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-flash-latest", Reasoning(budget_tokens=1024), {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-flash-latest", Reasoning(budget_tokens=8000), {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-flash-latest", Reasoning(budget_tokens=30_000), {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-2.0-flash", Reasoning(effort="none"), None),
        ("gemini-1.5-pro", Reasoning(effort="none"), None),
    ],
)
def test_thinking_is_asked_for_as_the_generation_wants_it(name, reasoning, expected):
    assert encoded(model=name, reasoning=reasoning)["generationConfig"].get("thinkingConfig") == expected


@pytest.mark.parametrize("name", ["gemini-2.5-pro", "gemini-3-flash-preview"])
@pytest.mark.parametrize("reasoning", [Reasoning(effort="none"), Reasoning(budget_tokens=0)])
def test_thinking_that_cannot_be_switched_off_is_refused(name, reasoning):
    with pytest.raises(InvalidRequest, match=r"^reasoning: thinking cannot be switched off"):
        encoded(model=name, reasoning=reasoning)


@pytest.mark.parametrize(
    ("messages", "fields", "message"),
    [
        (
            (Message("system", (Media("image", "image/png", base64=""),)), Message("user", "x")),
            {},
            r"messages\[0\]\.content\[0\]\.type: Google's system instruction takes text only",
        ),
        ((user(Media("image", base64="aGk=")),), {}, r"messages\[0\]\.content\[0\]: expected a media type"),
        ((user(Media("image")),), {}, r"messages\[0\]\.content\[0\]: expected data or an address"),
        ((user(ToolResult("c", "", (Text("x"),))),), {}, r"messages\[0\]\.content\[0\]: no call with this id"),
        ((model(ToolCall("c", "f", "[]")),), {}, r"messages\[0\]\.content\[0\]\.arguments: expected a JSON object"),
        ((model(ToolCall("c", "f", "{")),), {}, r"messages\[0\]\.content\[0\]\.arguments: expected a JSON object"),
        ((model(ToolCall("c", "f", '{"a":"\ud800"}')),), {}, r"messages\[0\]\.content\[0\]\.arguments"),
        ((model(Thinking("x")),), {}, r"messages: expected at least one turn"),
        ((), {"tools": (WEATHER,), "allows_parallel_calls": False}, r"allows_parallel_calls: "),
        ((), {"tool_choice": ToolChoice("required")}, r"tool_choice: expected tools with it"),
        ((), {"tool_choice": ToolChoice("named", "f")}, r"tool_choice: expected tools with it"),
    ],
)
def test_what_google_cannot_be_told_is_refused_by_name(messages, fields, message):
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        encoded(*messages, **fields)
