import json
from typing import Any

import pytest

from tollhouse import errors
from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.messages.api import MessagesApi
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.providers.sse import EventParser

API = MessagesApi()
ASK: dict[str, Any] = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def added(definition: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}


def read(**fields: Any):
    return API.read(json.dumps({**ASK, **fields}).encode())


def test_the_smallest_request_is_read():
    asked = read()
    assert (asked.model, asked.max_tokens, asked.is_stream, asked.user, asked.max_searches) == (
        "claude",
        100,
        False,
        None,
        0,
    )
    assert (asked.answers, asked.shows_usage, asked.body) == (1, True, ASK)


def test_what_every_call_needs_is_read():
    tools = [SEARCH, {**SEARCH, "max_uses": 3}, {**SEARCH, "max_uses": None}, {"name": "f", "input_schema": {}}]
    asked = read(stream=True, metadata={"user_id": "u-7"}, max_tokens=0, tools=tools)
    assert (asked.is_stream, asked.user, asked.max_tokens, asked.max_searches) == (True, "u-7", 0, 23)


def test_nulls_are_as_good_as_nothing():
    asked = read(stream=None, metadata=None, tools=None, speed=None)
    assert (asked.is_stream, asked.user, asked.max_searches) == (False, None, 0)
    assert read(metadata={"user_id": None}).user is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"7", b"\xff", b'{"a":' * 5000, b'{"model": "\\ud800"}', b"1e999"])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(InvalidRequest, match=r"^the body"):
        API.read(raw)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a\n"}, "model"),
        ({"model": 7}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"stream": 1}, "stream"),
        ({"metadata": 7}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"tools": {}}, "tools"),
        ({"tools": [7]}, "tools[0]"),
        ({"tools": [{**SEARCH, "max_uses": 0}]}, "tools[0].max_uses"),
        ({"tools": [{**SEARCH, "max_uses": "3"}]}, "tools[0].max_uses"),
        ({"speed": "fast"}, "speed"),
        ({"speed": []}, "speed"),
        ({"fallbacks": [{"model": "x"}]}, "fallbacks"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}, {"type": "web_search_20250305"}]},
            "tools[0].type",
        ),
        ({"tools": [{**SEARCH, "max_uses": 1000}, SEARCH]}, "tools"),
        (
            {"messages": [{"role": "user", "content": [added(SEARCH)]}]},
            "messages[0].content[0].tool.definition",
        ),
        (
            {"messages": [{"role": "user", "content": ["", added({"type": "advisor_20260301", "name": "advisor"})]}]},
            "messages[0].content[1].tool.definition",
        ),
        ({"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "x"}]}, "tools[0].type"),
    ],
)
def test_what_is_malformed_or_has_no_price_is_refused_by_field(fields, field):
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert caught.value.message.startswith(f"{field}: ")


CODE = {"type": "code_execution_20260120", "name": "code_execution"}
FETCH = {"type": "web_fetch_20260309", "name": "web_fetch"}


@pytest.mark.parametrize(
    ("fields", "searches", "steps", "answers"),
    [
        ({"tools": [SEARCH]}, 10, 10, 1),
        ({"tools": [{**SEARCH, "max_uses": 2}, FETCH]}, 2, 12, 1),
        ({"tools": [FETCH, CODE]}, 0, 10, 1),
        ({"mcp_servers": [{"url": "https://x.example"}], "tools": [{"type": "mcp_toolset"}]}, 0, 10, 1),
        ({"container": "container_1"}, 0, 10, 1),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, 0, 1, 2),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, 0, 0, 1),
        ({"compaction": {"type": "summarize"}}, 0, 1, 2),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "f", "input_schema": {}}]}, 0, 0, 1),
        ({"messages": [{"role": "user", "content": [added({"name": "f", "input_schema": {}})]}]}, 0, 0, 1),
        ({"inference_geo": "global"}, 0, 0, 1),
    ],
)
def test_what_goes_on_by_itself_is_counted(fields, searches, steps, answers):
    asked = read(**fields)
    assert (asked.max_searches, asked.max_steps, asked.answers) == (searches, steps, answers)


def test_the_limits_bind_the_provider_too():
    tools = [SEARCH, {**SEARCH, "max_uses": 3}, {"name": "f", "input_schema": {}}, {"type": [], "name": "g"}]
    asked = read(tools=tools, stream=True, of_tomorrow={"x": 1})
    assert API.limited(asked, 50) == {
        **ASK,
        "max_tokens": 50,
        "stream": True,
        "of_tomorrow": {"x": 1},
        "tools": [{**SEARCH, "max_uses": 10}, *tools[1:]],
    }
    assert asked.body["tools"] == tools
    assert asked.body["max_tokens"] == 100


def test_a_request_without_searches_keeps_its_tools_as_they_came():
    assert API.limited(read(tools=None), 50) == {**ASK, "max_tokens": 50, "tools": None}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidRequest, "invalid_request_error"),
        (errors.Unauthorized, "authentication_error"),
        (errors.BudgetExceeded, "billing_error"),
        (errors.ModuleInactive, "permission_error"),
        (errors.ModelUnknown, "not_found_error"),
        (errors.MethodNotAllowed, "invalid_request_error"),
        (errors.RequestTimeout, "timeout_error"),
        (errors.IdempotencyInFlight, "conflict_error"),
        (errors.RequestTooLarge, "request_too_large"),
        (errors.RateLimited, "rate_limit_error"),
        (errors.HeadersTooLarge, "invalid_request_error"),
        (errors.InternalError, "api_error"),
        (errors.Unavailable, "overloaded_error"),
        (errors.CallTimeout, "timeout_error"),
    ],
)
def test_errors_are_in_anthropics_shape(error: type[TollhouseError], kind):
    shape = {
        "type": "error",
        "error": {"type": kind, "message": "No “way”.", "code": error.code},
        "request_id": "req_1",
    }
    assert json.loads(API.error(error("No “way”."), "req_1")) == shape
    (event,) = EventParser(1000).feed(API.stream_error(error("No “way”."), "req_1"))
    assert (event.name, json.loads(event.data)) == ("error", shape)


def test_its_parts_are_those_of_the_module():
    asked = read(stream=True)
    assert API.name == "messages"
    assert API.translated(asked, 7).max_tokens == 7
    assert API.stream_writer(asked, AnswerHead("req_1", "claude", 0)).begin().startswith(b"event: message_start\n")
