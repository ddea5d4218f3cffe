import json
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.adapter import AnthropicAdapter
from tollhouse.providers.base import OutcomeUnknown, Overloaded, Rejected, WireResponse
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest, Text, Thinking, ToolCall
from tollhouse.providers.usage import Usage

ADAPTER = AnthropicAdapter(base_url="https://api.anthropic.com", api_key="sk-ant-0123456789")
ASK = ProviderRequest(model="claude-haiku-4-5", messages=(Message("user", "Hello"),), max_tokens=400)


def answer(status: int = 200, headers: dict[str, str] | None = None, **body: Any) -> WireResponse:
    return WireResponse(status=status, headers=headers or {}, body=json.dumps(body).encode())


def message(**fields: Any) -> WireResponse:
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }
    return answer(**{**whole, **fields})


def error(status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> WireResponse:
    return answer(status, headers, type="error", error={"type": kind, "message": text}, request_id="req_1")


def test_the_smallest_request_is_golden():
    wire = ADAPTER.encode(ASK)
    assert wire.path == "/v1/messages"
    assert dict(wire.headers) == {"x-api-key": "sk-ant-0123456789", "anthropic-version": "2023-06-01"}
    assert json.loads(wire.body) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "Hello"}],
    }


def test_the_fullest_request_is_golden():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    request = ProviderRequest(
        model="m",
        messages=(
            Message("system", "Be brief."),
            Message("user", "One"),
            Message("user", "Two"),
            Message("system", "Be kind."),
            Message("assistant", "Three"),
        ),
        max_tokens=1,
        temperature=0.0,
        stop=("END", "STOP"),
        response_schema=schema,
    )
    assert json.loads(ADAPTER.encode(request).body) == {
        "model": "m",
        "max_tokens": 1,
        "system": "Be brief.\n\nBe kind.",
        "messages": [
            {"role": "user", "content": "One"},
            {"role": "user", "content": "Two"},
            {"role": "assistant", "content": "Three"},
        ],
        "temperature": 0.0,
        "stop_sequences": ["END", "STOP"],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }


def test_a_server_without_a_key_gets_no_key_header():
    wire = AnthropicAdapter(base_url="http://127.0.0.1:8080", api_key="").encode(ASK)
    assert dict(wire.headers) == {"anthropic-version": "2023-06-01"}


def test_system_turns_alone_are_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"^messages: expected at least one turn of the user"):
        ADAPTER.encode(ProviderRequest(model="m", messages=(Message("system", "x"),), max_tokens=1))


def test_an_answer_is_golden():
    assert ADAPTER.decode(message()) == ProviderAnswer(
        content="Hi",
        finish_reason="stop",
        usage=Usage(input_tokens=10, output_tokens=5),
        provider_request_id="msg_1",
    )


def test_the_request_id_of_the_header_comes_first():
    assert ADAPTER.decode(message(headers={"request-id": "req_7"})).provider_request_id == "req_7"


def test_every_class_of_usage_is_counted_once():
    usage = {
        "input_tokens": 1,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 700,
        "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 400},
        "output_tokens": 9000,
        "output_tokens_details": {"thinking_tokens": 5000},
    }
    assert ADAPTER.decode(message(usage=usage)).usage == Usage(
        input_tokens=1,
        cached_input_tokens=20,
        cache_write_tokens=300,
        cache_write_1h_tokens=400,
        output_tokens=4000,
        reasoning_tokens=5000,
    )


def test_cache_writes_without_a_split_are_of_the_default_lifetime():
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 7, "cache_creation": None}
    assert ADAPTER.decode(message(usage=usage)).usage == Usage(input_tokens=1, cache_write_tokens=7, output_tokens=1)


def test_a_split_without_its_sum_is_enough():
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 7}}
    assert ADAPTER.decode(message(usage=usage)).usage == Usage(input_tokens=1, cache_write_tokens=7, output_tokens=1)


def test_an_explicit_zero_is_a_zero():
    assert ADAPTER.decode(message(usage={"input_tokens": 0, "output_tokens": 0})).usage == Usage()


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "many",
        {"input_tokens": 10},
        {"input_tokens": -1, "output_tokens": 5},
        {"input_tokens": "10", "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": 10**9 + 1, "output_tokens": 5},
        {"input_tokens": 10, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 6}},
        {
            "input_tokens": 1,
            "output_tokens": 5,
            "cache_creation_input_tokens": 3,
            "cache_creation": {"ephemeral_1h_input_tokens": 4},
        },
    ],
)
def test_a_usage_that_cannot_be_read_does_not_cost_the_answer(usage):
    decoded = ADAPTER.decode(message(usage=usage))
    assert decoded.content == "Hi"
    assert decoded.usage is None


def test_only_text_blocks_are_content():
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "One"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        {"type": "of_tomorrow", "text": "no answer"},
        {"type": "text", "text": {"not": "text"}},
        {"type": "text", "text": " two"},
    ]
    assert ADAPTER.decode(message(content=content)).content == "One two"


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("pause_turn", "other"),
        ("of_tomorrow", "other"),
        (None, "other"),
    ],
)
def test_stop_reasons_are_mapped(stop_reason, expected):
    assert ADAPTER.decode(message(stop_reason=stop_reason)).finish_reason == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"content":"text"}', b'{"content":[{"type":"text"'])
def test_a_200_that_is_no_message_may_have_been_billed(body):
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(WireResponse(status=200, headers={}, body=body))


@pytest.mark.parametrize(
    "usage", [{}, {"usage": {"input_tokens": 0, "output_tokens": 0}}, {"usage": {"input_tokens": 9}}]
)
@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_an_error_under_a_2xx_may_have_been_billed(status, usage):
    # Anthropic itself never answers so: whoever does in its place has said nothing about its bill.
    failed = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, **usage}
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(answer(status, **failed))


def test_a_refused_request_passes_the_reason_on():
    with pytest.raises(Rejected, match="max_tokens: must be at least 1") as caught:
        ADAPTER.decode(error(400, "invalid_request_error", "max_tokens: must be at least 1"))
    assert caught.value.status == 400


def test_a_request_cloudflare_finds_too_large_is_rejected():
    with pytest.raises(Rejected, match="HTTP 413"):
        ADAPTER.decode(WireResponse(status=413, headers={}, body=b"<html>413 Request Entity Too Large</html>"))


def test_overload_is_another_candidates_chance():
    with pytest.raises(Overloaded, match="overloaded_error") as caught:
        ADAPTER.decode(error(529, "overloaded_error", "Overloaded", {"retry-after": "12"}))
    assert (caught.value.status, caught.value.retry_after_s) == (529, 12.0)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, "authentication_error", "invalid x-api-key sk-ant-0123456789"),
        (402, "billing_error", "sk-ant-0123456789"),
        (403, "permission_error", "sk-ant-0123456789"),
        (404, "not_found_error", "model: claude-9 sk-ant-0123456789"),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        (400, "invalid_request_error", "You have reached your specified API usage limits."),
    ],
)
def test_what_the_operator_has_to_mend_is_not_the_callers_fault(status, kind, text):
    with pytest.raises(Overloaded, match=r"operator configured|account of this service's operator") as caught:
        ADAPTER.decode(error(status, kind, text))
    assert text not in str(caught.value)
    assert "sk-ant" not in str(caught.value)


def test_parts_come_in_their_order():
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}},
        {"type": "text", "text": "One", "citations": [{"type": "char_location"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"n": 1}, "caller": {"type": "direct"}},
        {"type": "tool_use", "id": 7, "name": "no call", "input": {}},
    ]
    decoded = ADAPTER.decode(message(content=content, stop_reason="tool_use"))
    assert decoded.parts == (
        Thinking("hm", signature="sig"),
        Thinking("", redacted="xyz"),
        Text("One"),
        ToolCall("toolu_1", "f", '{"n": 1}'),
    )
    assert decoded.content == "One"


def test_text_alone_is_no_parts():
    content = [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]
    decoded = ADAPTER.decode(message(content=content, stop_reason="stop_sequence", stop_sequence="END"))
    assert (decoded.content, decoded.parts, decoded.stop_sequence) == ("One two", (), "END")


def test_searches_are_counted():
    usage = {"input_tokens": 1, "output_tokens": 2, "server_tool_use": {"web_search_requests": 3}}
    assert ADAPTER.decode(message(usage=usage)).usage == Usage(input_tokens=1, output_tokens=2, web_searches=3)


def test_a_compaction_is_billed_beside_the_sums():
    usage = {
        "input_tokens": 23000,
        "output_tokens": 1000,
        "iterations": [
            {
                "type": "compaction",
                "input_tokens": 180000,
                "output_tokens": 3500,
                "cache_read_input_tokens": 7,
                "cache_creation_input_tokens": 11,
                "cache_creation": {"ephemeral_1h_input_tokens": 4},
            },
            {"type": "message", "input_tokens": 23000, "output_tokens": 1000},
        ],
    }
    assert ADAPTER.decode(message(usage=usage)).usage == Usage(
        input_tokens=203000,
        cached_input_tokens=7,
        cache_write_tokens=0,
        cache_write_1h_tokens=11,
        output_tokens=4500,
    )


def test_a_request_is_relayed_as_it_came_but_for_the_models_name_and_the_key():
    body = {
        "model": "mine",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}],
        "of_tomorrow": {"x": 1.5},
    }
    asked = {
        "anthropic-version": "2024-01-01",
        "anthropic-beta": "a-1,b-2",
        "x-api-key": "theirs",
        "authorization": "Bearer theirs",
        "user-agent": "x",
    }
    wire = ADAPTER.relay(body, model="claude-opus-5", stream=True, headers=asked)
    assert wire.path == "/v1/messages"
    assert wire.headers == (
        ("x-api-key", "sk-ant-0123456789"),
        ("anthropic-version", "2024-01-01"),
        ("anthropic-beta", "a-1,b-2"),
    )
    assert json.loads(wire.body) == {**body, "model": "claude-opus-5", "stream": True}
    assert body["model"] == "mine"


def test_a_relayed_request_that_says_nothing_of_streams_goes_on_saying_nothing():
    wire = ADAPTER.relay({"model": "mine"}, model="m", stream=False, headers={})
    assert json.loads(wire.body) == {"model": "m"}
    assert wire.headers == (("x-api-key", "sk-ant-0123456789"), ("anthropic-version", "2023-06-01"))
    wire = ADAPTER.relay({"stream": None}, model="m", stream=False, headers={})
    assert json.loads(wire.body) == {"model": "m", "stream": False}


@pytest.mark.parametrize("name", ["anthropic-version", "anthropic-beta"])
@pytest.mark.parametrize("value", ["a\r\nx: y", "é", "\x00"])
def test_a_header_that_would_be_another_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest, match=f"^{name}: expected printable ASCII"):
        ADAPTER.relay({}, model="m", stream=False, headers={name: value})


def test_thinking_of_other_vendors_is_not_relayed():
    turn = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "tollhouse:"}]}
    wire = ADAPTER.relay({"messages": [turn]}, model="m", stream=False, headers={})
    assert json.loads(wire.body)["messages"] == []


def test_a_body_nested_without_end_is_a_refusal():
    body: dict[str, Any] = {}
    for _ in range(5000):
        body = {"a": body}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        ADAPTER.relay(body, model="m", stream=False, headers={})


def test_counting_tokens_is_relayed():
    body = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}]}
    wire = ADAPTER.count_tokens(body, "claude-opus-5", {"anthropic-beta": "token-counting-2024-11-01"})
    assert wire.path == "/v1/messages/count_tokens"
    assert json.loads(wire.body) == {**body, "model": "claude-opus-5"}
    assert dict(wire.headers) == {
        "x-api-key": "sk-ant-0123456789",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "token-counting-2024-11-01",
    }


@pytest.mark.parametrize(("api", "own"), [("messages", True), ("chat", False), ("gemini", False)])
def test_only_its_own_api_is_a_dialect(api, own):
    assert ADAPTER.dialect(api) is (ADAPTER if own else None)
