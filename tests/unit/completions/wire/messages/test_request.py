import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.completions.wire.messages.api import MessagesApi
from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.foreign import marked_call
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

API = MessagesApi()
HELLO = {"role": "user", "content": "Hi"}
ASK: dict[str, Any] = {"model": "mine", "max_tokens": 100, "messages": [HELLO]}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def translated(**fields: Any) -> ProviderRequest:
    return API.translated(API.read(json.dumps({**ASK, **fields}).encode()), 100)


def parts(role: str, *blocks: dict[str, Any]):
    return translated(messages=[HELLO, {"role": role, "content": list(blocks)}]).messages[1].parts


def test_the_smallest_request_is_golden():
    assert translated() == ProviderRequest(model="mine", messages=(Message("user", "Hi"),), max_tokens=100)


def test_a_whole_tool_conversation_is_golden():
    request = translated(
        stream=True,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?", "citations": None}, PNG]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Wait.", "cache_control": {"type": "ephemeral"}},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "t2", "name": "noop", "input": {}, "caller": {"type": "direct"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Rain"}, PNG]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "No", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "t3"},
                    {"type": "text", "text": "And?"},
                ],
            },
            {"role": "system", "content": "Hurry."},
        ],
        tools=[
            {"name": "weather", "description": "Tells", "input_schema": SCHEMA, "defer_loading": False},
            {
                "type": "custom",
                "name": "noop",
                "input_schema": {"type": "object"},
                "strict": True,
                "cache_control": {"type": "ephemeral", "ttl": "5m"},
                "allowed_callers": ["direct"],
            },
        ],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        metadata={"user_id": "u-7"},
        temperature=1,
        top_p=0.5,
        top_k=3,
        stop_sequences=["END"],
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}, "effort": None},
    )
    assert request == ProviderRequest(
        model="mine",
        messages=(
            Message("system", (Text("Be brief.", cache="1h"),)),
            Message("user", (Text("Weather?"), Media("image", media_type="image/png", base64="aGk="))),
            Message(
                "assistant",
                (
                    Text("Wait.", cache="5m"),
                    ToolCall("t1", "weather", '{"city":"Oslo"}'),
                    ToolCall("t2", "noop", "{}"),
                ),
            ),
            Message(
                "user",
                (
                    ToolResult("t1", "weather", (Text("Rain"), Media("image", media_type="image/png", base64="aGk="))),
                    ToolResult("t2", "noop", (Text("No"),), is_error=True),
                    ToolResult("t3", "", ()),
                    Text("And?"),
                ),
            ),
            Message("system", "Hurry."),
        ),
        max_tokens=100,
        temperature=1.0,
        stop=("END",),
        response_schema=SCHEMA,
        tools=(
            Tool("weather", "Tells", SCHEMA),
            Tool("noop", None, {"type": "object"}, is_strict=True, cache="5m"),
        ),
        tool_choice=ToolChoice("required"),
        allows_parallel_calls=False,
        top_p=0.5,
        top_k=3,
        user="u-7",
        stream=True,
    )


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://x/y"}}, Media("image", url="https://x/y")),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
                "title": "a.pdf",
                "citations": {"enabled": False},
                "cache_control": {"type": "ephemeral"},
            },
            Media("document", media_type="application/pdf", base64="aGk=", name="a.pdf", cache="5m"),
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "context": None},
            Media("document", media_type="text/plain", base64="aGk="),
        ),
        ({"type": "document", "source": {"type": "url", "url": "https://x/y"}}, Media("document", url="https://x/y")),
    ],
)
def test_media_are_golden(block, part):
    assert parts("user", block) == (part,)


def test_thinking_goes_back_to_the_vendor_that_made_it_and_anthropics_own_has_no_proof_elsewhere():
    assert parts(
        "assistant",
        {"type": "thinking", "thinking": "a", "signature": "tollhouse:sig"},
        {"type": "thinking", "thinking": "b", "signature": "tollhouse:"},
        {"type": "thinking", "thinking": "c", "signature": "EqkE"},
        {"type": "redacted_thinking", "data": "tollhouse:xyz"},
        {"type": "redacted_thinking", "data": "EqkE"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
        {"type": "redacted_thinking", "data": marked_call("t1", "call sig")},
        {"type": "redacted_thinking", "data": marked_call("t9", "of no call")},
    ) == (
        Thinking("a", signature="sig"),
        Thinking("b"),
        Thinking("c"),
        Thinking("", redacted="xyz"),
        ToolCall("t1", "f", "{}", signature="call sig"),
    )


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="none")),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Reasoning(effort="high")),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, Reasoning(effort="xhigh")),
        ({"output_config": {"effort": "low"}}, Reasoning(effort="low")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(budget_tokens=2048)),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2048}, "output_config": {"effort": "max"}},
            Reasoning(effort="max"),
        ),
    ],
)
def test_how_much_to_think_is_golden(fields, reasoning):
    assert translated(**fields).reasoning == reasoning


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, None, None),
        ({"type": "auto"}, ToolChoice("auto"), None),
        ({"type": "none"}, ToolChoice("none"), None),
        ({"type": "tool", "name": "f", "disable_parallel_tool_use": False}, ToolChoice("named", "f"), True),
    ],
)
def test_which_tool_is_called_is_golden(choice, expected, parallel):
    request = translated(tool_choice=choice)
    assert (request.tool_choice, request.allows_parallel_calls) == (expected, parallel)


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "user", "content": [{"type": "text", "text": "x"}, fields]}]}


def said(**fields: Any) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "assistant", "content": [fields]}]}


TOOL: dict[str, Any] = {"name": "f", "input_schema": SCHEMA}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"service_tier": "auto"}, "service_tier"),
    ({"container": "c", "mcp_servers": []}, "container, mcp_servers"),
    ({"metadata": {"x": 1}}, "metadata.x"),
    ({"system": 7}, "system"),
    ({"system": [PNG]}, "system[0].type"),
    ({"system": [{"type": "text", "text": 7}]}, "system[0].text"),
    ({"temperature": 1.5}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": 0.5}, "top_k"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"stop_sequences": ["END", 7]}, "stop_sequences[1]"),
    ({"messages": [7]}, "messages[0]"),
    ({"messages": [{**HELLO, "name": "x"}]}, "messages[0].name"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (block(), "messages[1].content[1].type"),
    (block(type="search_result"), "messages[1].content[1].type"),
    (block(type="container_upload", file_id="x"), "messages[1].content[1].type"),
    (block(type="tool_use", id="t", name="f", input={}), "messages[1].content[1].type"),
    (block(type="text"), "messages[1].content[1].text"),
    (block(type="text", text="x", citations=[{"type": "char_location"}]), "messages[1].content[1].citations"),
    (block(type="text", text="x", of_tomorrow=0), "messages[1].content[1].of_tomorrow"),
    (block(type="text", text="x", cache_control=7), "messages[1].content[1].cache_control"),
    (block(type="text", text="x", cache_control={"ttl": "2h"}), "messages[1].content[1].cache_control.ttl"),
    (block(type="image"), "messages[1].content[1].source"),
    (block(type="image", source={"type": "file", "file_id": "x"}), "messages[1].content[1].source.type"),
    (block(type="image", source={"type": "base64", "data": "x"}), "messages[1].content[1].source.media_type"),
    (block(type="image", source={"type": "url", "url": None}), "messages[1].content[1].source.url"),
    (block(type="document", source={"type": "content", "content": "x"}), "messages[1].content[1].source.type"),
    (
        block(type="document", source={"type": "url", "url": "x"}, citations={"enabled": True}),
        "messages[1].content[1].citations",
    ),
    (
        block(type="document", source={"type": "url", "url": "x"}, citations={"enabled": []}),
        "messages[1].content[1].cit",
    ),
    (block(type="document", source={"type": "url", "url": "x"}, context="x"), "messages[1].content[1].context"),
    (block(type="tool_result", content="x"), "messages[1].content[1].tool_use_id"),
    (block(type="tool_result", tool_use_id="t", is_error="no"), "messages[1].content[1].is_error"),
    (
        block(type="tool_result", tool_use_id="t", content=[{"type": "tool_reference", "tool_name": "f"}]),
        "messages[1].content[1].content[0].type",
    ),
    (said(type="server_tool_use", id="s", name="web_search", input={}), "messages[1].content[0].type"),
    (said(type="compaction", content="x"), "messages[1].content[0].type"),
    (said(type="tool_use", id="t", name="f", input="x"), "messages[1].content[0].input"),
    (said(type="tool_use", id="t", name="f", input={}, caller={"type": "x"}), "messages[1].content[0].caller"),
    (said(type="thinking", thinking=None, signature="x"), "messages[1].content[0].thinking"),
    (said(type="redacted_thinking"), "messages[1].content[0].data"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**TOOL, "type": 7}]}, "tools[0].type"),
    ({"tools": [TOOL, {**TOOL, "defer_loading": True}]}, "tools[1].defer_loading"),
    ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "strict": "yes"}]}, "tools[0].strict"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
    ({"output_config": {"task_budget": {"type": "tokens", "total": 1}}}, "output_config.task_budget"),
    ({"output_config": {"effort": "minimal"}}, "output_config.effort"),
    ({"output_config": {"effort": []}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "output_config.effort"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED)
def test_what_cannot_be_translated_is_refused_by_name(fields, field):
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.message.startswith(field)
    assert caught.value.message.isprintable()


def test_a_prompt_to_be_cached_only_has_no_counterpart():
    with pytest.raises(InvalidRequest, match=r"^max_tokens: expected at least 1"):
        API.translated(API.read(json.dumps({**ASK, "max_tokens": 0}).encode()), 0)


def test_a_turn_of_nothing_but_anthropics_own_proof_is_left_out():
    own = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "EqkE"}]}
    assert translated(messages=[HELLO, own, HELLO]).messages == (Message("user", "Hi"), Message("user", "Hi"))


def test_arguments_nested_without_end_are_refused_by_name():
    raw = json.dumps({**ASK, "messages": [HELLO, {"role": "assistant", "content": []}]})
    nested = '{"a":' * 970 + "1" + "}" * 970
    use = json.dumps({"type": "tool_use", "id": "t", "name": "f", "input": "HERE"}).replace('"HERE"', nested)
    raw = raw.replace('"content": []', f'"content": [{use}]')
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        API.translated(API.read(raw.encode()), 1)


def test_what_is_translated_and_said_to_anthropic_again_is_what_was_asked():
    # Open objects are closed on the way, since Anthropic takes no others.
    schema = SCHEMA | {"additionalProperties": False}
    body = {
        "model": "mine",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}, PNG]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Rain", "is_error": True}],
            },
        ],
        "tools": [{"name": "weather", "description": "Tells", "input_schema": schema, "strict": True}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u-7"},
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 3,
        "stop_sequences": ["END"],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "stream": True,
    }
    assert json.loads(encode_request(translated(**body))) == body


NAMES = (
    "type text role content source data url media_type id name input tool_use_id is_error thinking signature "
    "cache_control ttl citations enabled caller title user_id effort format schema budget_tokens max_uses"
)
KINDS = (
    "text image document tool_use tool_result thinking redacted_thinking user assistant system base64 url custom tool "
    "web_search_1 enabled adaptive json_schema ephemeral tollhouse:call:1:a"
)


def words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words(NAMES), inner, max_size=5),
    max_leaves=20,
)
TOP = (
    "messages system metadata temperature top_p top_k stop_sequences tools tool_choice thinking output_config stream "
    "model max_tokens speed fallbacks cache_control"
)


@given(
    st.dictionaries(words(TOP), JSON, max_size=5),
    st.lists(st.fixed_dictionaries({"role": words(KINDS), "content": JSON}), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_any_json_is_translated_or_refused(fields, messages):
    raw = json.dumps({**ASK, **({"messages": messages} if messages else {}), **fields}).encode()
    try:
        asked = API.read(raw)
        assert API.limited(asked, 5)["max_tokens"] == 5
        request = API.translated(asked, 5)
        encode_request(request)
    except InvalidRequest:
        pass
