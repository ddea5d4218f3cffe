import json
from typing import Any

import pytest

from tollhouse.providers.base import OutcomeUnknown, Overloaded, Rejected, WireResponse
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest, Text, Thinking, ToolCall
from tollhouse.providers.openai.adapter import OpenAIAdapter
from tollhouse.providers.usage import Usage

KEY = "sk-proj-0123456789"
ADAPTER = OpenAIAdapter(base_url="https://api.openai.com/v1", api_key=KEY)
LOCAL = OpenAIAdapter(base_url="http://127.0.0.1:11434/v1", api_key="")
ASK = ProviderRequest(model="gpt-4o-mini", messages=(Message("user", "Hello"),), max_tokens=400)
STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {"cities": {"type": "array", "items": {"type": "string"}}},
    "required": ["cities"],
    "additionalProperties": False,
}


def answer(status: int = 200, headers: dict[str, str] | None = None, **body: Any) -> WireResponse:
    return WireResponse(status=status, headers=headers or {}, body=json.dumps(body).encode())


def completion(
    usage: Any = None, headers: dict[str, str] | None = None, finish_reason: str | None = "stop", **message: Any
) -> WireResponse:
    message = {"role": "assistant", "content": "Hi", "refusal": None, **message}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 5} if usage is None else usage
    return answer(headers=headers, id="chatcmpl-1", object="chat.completion", choices=[choice], usage=usage)


def error(
    status: int,
    text: str,
    code: str | None = None,
    headers: dict[str, str] | None = None,
    kind: str = "invalid_request_error",
) -> WireResponse:
    return answer(status, headers, error={"message": text, "type": kind, "param": None, "code": code})


def test_the_smallest_request_is_golden():
    wire = ADAPTER.encode(ASK)
    assert wire.path == "/chat/completions"
    assert wire.headers == (("authorization", f"Bearer {KEY}"),)
    assert json.loads(wire.body) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": 400,
    }


def test_the_fullest_request_is_golden():
    request = ProviderRequest(
        model="llama3.2",
        messages=(Message("system", "Be brief."), Message("user", "One"), Message("assistant", "Two")),
        max_tokens=7,
        temperature=0.0,
        stop=("END",),
        response_schema=STRICT,
    )
    wire = LOCAL.encode(request)
    assert wire.headers == ()
    assert json.loads(wire.body) == {
        "model": "llama3.2",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
        ],
        "max_tokens": 7,
        "temperature": 0.0,
        "stop": ["END"],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": STRICT, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("base_url", "header"),
    [
        ("https://acme.openai.azure.com/openai/v1", "api-key"),
        ("https://acme.cognitiveservices.azure.com/openai/v1", "api-key"),
        ("https://ACME.OpenAI.Azure.com/openai/v1", "api-key"),
        ("https://api.openai.com/v1", "authorization"),
        ("https://openai.azure.com.example.org/v1", "authorization"),
    ],
)
def test_azure_takes_its_key_in_a_header_of_its_own(base_url, header):
    wire = OpenAIAdapter(base_url=base_url, api_key=KEY).encode(ASK)
    assert [name for name, _ in wire.headers] == [header]


@pytest.mark.parametrize(
    ("base_url", "model", "limit"),
    [
        ("https://api.openai.com/v1", "gpt-4o-mini", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "gpt-4o-mini", "max_completion_tokens"),
        ("https://acme.openai.azure.com/openai/v1", "our-deployment", "max_completion_tokens"),
        ("https://gateway.example/v1", "gpt-5-mini", "max_completion_tokens"),
        ("https://gateway.example/v1", "gpt-5.1", "max_completion_tokens"),
        ("https://openrouter.ai/api/v1", "openai/o3-mini", "max_completion_tokens"),
        ("https://gateway.example/v1", "o1", "max_completion_tokens"),
        ("http://127.0.0.1:11434/v1", "llama3.2", "max_tokens"),
        ("http://127.0.0.1:8000/v1", "openai/gpt-oss-20b", "max_tokens"),
        ("http://127.0.0.1:8000/v1", "gpt-4o", "max_tokens"),
        ("http://127.0.0.1:8000/v1", "marco-o1", "max_tokens"),
        ("https://not-api.openai.com.example/v1", "gpt-4o", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_binds_this_provider(base_url, model, limit):
    request = ProviderRequest(model=model, messages=(Message("user", "x"),), max_tokens=9)
    body = json.loads(OpenAIAdapter(base_url=base_url, api_key="").encode(request).body)
    assert {name: body[name] for name in body if name.startswith("max_")} == {limit: 9}


def alternatives(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [schema]}
    return {**STRICT, "properties": {"cities": schema}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        (nested(4), True),
        (nested(40), False),
        (alternatives(2), True),
        (alternatives(60), False),
        ({**STRICT, "properties": {"cities": {"anyOf": []}}}, False),
        ({**STRICT, "required": []}, False),
        ({**STRICT, "required": [["cities"]]}, False),
        ({**STRICT, "additionalProperties": True}, False),
        ({k: v for k, v in STRICT.items() if k != "additionalProperties"}, False),
        ({**STRICT, "properties": {"cities": {"type": "string", "format": "uri"}}}, False),
        ({**STRICT, "properties": {"cities": {}}}, False),
        ({**STRICT, "properties": {"cities": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, True),
        ({**STRICT, "properties": {"cities": {"anyOf": [{"type": "string"}, {"minimum": 1}]}}}, False),
        ({**STRICT, "properties": {"cities": {"type": ["string", "null"]}}}, False),
        ({**STRICT, "properties": {"cities": {"type": "array"}}}, False),
        ({**STRICT, "properties": []}, False),
        ({"anyOf": [STRICT]}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        ({}, False),
    ],
)
def test_a_schema_is_called_strict_only_where_openai_surely_takes_it_so(schema, strict):
    request = ProviderRequest(model="m", messages=(Message("user", "x"),), max_tokens=9, response_schema=schema)
    described = json.loads(ADAPTER.encode(request).body)["response_format"]["json_schema"]
    assert described["schema"] == schema
    assert described.get("strict", False) is strict


def test_an_answer_is_golden():
    assert ADAPTER.decode(completion(headers={"x-request-id": "req_7"})) == ProviderAnswer(
        content="Hi",
        finish_reason="stop",
        usage=Usage(input_tokens=10, output_tokens=5),
        provider_request_id="req_7",
    )


def test_cached_written_and_reasoning_tokens_are_counted_once():
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 400},
    }
    assert ADAPTER.decode(completion(usage)).usage == Usage(
        input_tokens=100,
        cached_input_tokens=600,
        cache_write_tokens=300,
        output_tokens=100,
        reasoning_tokens=400,
    )


def sound(heard: int, cached: int = 0, spoken: int = 0) -> WireResponse:
    return completion(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "total_tokens": 1500,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": heard},
            "completion_tokens_details": {"reasoning_tokens": 100, "audio_tokens": spoken},
        }
    )


def test_sound_is_in_classes_of_its_own():
    assert ADAPTER.decode(sound(300, cached=200, spoken=150)).usage == Usage(
        input_tokens=500,
        cached_input_tokens=200,
        audio_input_tokens=300,
        output_tokens=250,
        reasoning_tokens=100,
        audio_output_tokens=150,
    )


def test_sound_that_can_only_have_come_from_the_cache_is_counted_there():
    usage = ADAPTER.decode(sound(600, cached=700)).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens, usage.audio_input_tokens) == (0, 700, 300)
    assert usage.total_tokens == 1500


def test_more_sound_than_there_was_input_or_output_is_no_usage():
    assert ADAPTER.decode(sound(1001)).usage is None
    assert ADAPTER.decode(sound(0, spoken=401)).usage is None


def test_tool_calls_thinking_and_text_are_parts():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]
    decoded = ADAPTER.decode(completion(content=parts, tool_calls=[call, 7, {"function": {"name": ""}}]))
    assert decoded.parts == (Thinking("hm"), Text("Hi"), ToolCall("c1", "f", "{}"))
    assert (decoded.content, decoded.finish_reason) == ("Hi", "tool_calls")


def test_models_that_search_on_every_call_are_known():
    assert ADAPTER.own_searches("gpt-4o-search-preview") == ADAPTER.own_searches("gpt-5-search-api-2025-10-14") == 1
    assert ADAPTER.own_searches("gpt-5") == 0
    local = OpenAIAdapter(base_url="http://127.0.0.1:8000/v1", api_key="")
    assert local.own_searches("gpt-4o-search-preview") == 0


def test_searches_are_counted_where_openai_bills_them():
    cited = completion(annotations=[{"type": "url_citation", "url_citation": {"url": "https://x.example"}}])
    assert ADAPTER.decode(cited).usage == Usage(input_tokens=10, output_tokens=5, web_searches=1)
    assert LOCAL.decode(cited).usage == Usage(input_tokens=10, output_tokens=5)


@pytest.mark.parametrize(
    "usage",
    [
        # Without a total, reasoning above output can only be additional.
        {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 84}},
        {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 84}, "total_tokens": 125},
        # Gemini's compatible API does not itemise thoughts, but counts them in the total.
        {"completion_tokens": 9, "total_tokens": 125},
    ],
)
def test_reasoning_outside_the_completion_is_additional(usage):
    decoded = ADAPTER.decode(completion({"prompt_tokens": 32, **usage}))
    assert decoded.usage == Usage(input_tokens=32, output_tokens=9, reasoning_tokens=84)


def test_a_total_tells_additional_reasoning_from_included_reasoning():
    details = {"completion_tokens_details": {"reasoning_tokens": 4}}
    included = {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19, **details}
    additional = {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 23, **details}
    assert ADAPTER.decode(completion(included)).usage == Usage(input_tokens=10, output_tokens=5, reasoning_tokens=4)
    assert ADAPTER.decode(completion(additional)).usage == Usage(input_tokens=10, output_tokens=9, reasoning_tokens=4)


def test_an_explicit_zero_is_a_zero():
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "prompt_tokens_details": None}
    assert ADAPTER.decode(completion(usage)).usage == Usage()


@pytest.mark.parametrize(
    "usage",
    [
        {},
        [],
        "many",
        {"prompt_tokens": 10},
        {"prompt_tokens": 10, "completion_tokens": -5},
        {"prompt_tokens": 10, "completion_tokens": "5"},
        {"prompt_tokens": 10, "completion_tokens": None},
        {"prompt_tokens": 10**9 + 1, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
    ],
)
def test_a_usage_that_cannot_be_read_does_not_cost_the_answer(usage):
    decoded = ADAPTER.decode(completion(usage))
    assert decoded.content == "Hi"
    assert decoded.usage is None


def test_an_answer_without_usage_has_none():
    decoded = LOCAL.decode(answer(choices=[{"message": {"content": "Hi"}, "finish_reason": "stop"}]))
    assert decoded == ProviderAnswer(content="Hi", finish_reason="stop", usage=None)


def test_null_content_is_empty():
    assert ADAPTER.decode(completion(content=None, finish_reason="tool_calls")).content == ""


def test_content_in_parts_is_joined():
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "One"}, {"type": "text", "text": " two"}, 3]
    assert ADAPTER.decode(completion(content=parts)).content == "One two"


def test_a_refusal_is_the_content():
    decoded = ADAPTER.decode(completion(content=None, refusal="I cannot help with that."))
    assert (decoded.content, decoded.finish_reason) == ("I cannot help with that.", "refusal")


@pytest.mark.parametrize(
    ("finish_reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("of_tomorrow", "other"),
        (None, "other"),
    ],
)
def test_finish_reasons_are_mapped(finish_reason, expected):
    assert ADAPTER.decode(completion(finish_reason=finish_reason)).finish_reason == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"choices":[]}', b'{"choices":[{}]}'])
def test_a_200_that_is_no_completion_may_have_been_billed(body):
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(WireResponse(status=200, headers={}, body=body))


def test_an_error_within_a_200_is_another_candidates_chance():
    with pytest.raises(Overloaded):
        ADAPTER.decode(answer(error={"code": 502, "message": "Provider returned error"}, choices=None))


NOTHING_USED: list[Any] = [
    None,
    {},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": 0, "cost": 0.0, "is_byok": False, "cost_details": {"upstream_inference_cost": None}, "x": []},
]


@pytest.mark.parametrize("usage", NOTHING_USED)
@pytest.mark.parametrize("said", [{"code": 502, "message": "Provider returned error"}, "Provider returned error"])
def test_an_error_within_a_200_that_used_nothing_is_free(said, usage):
    with pytest.raises(Overloaded):
        ADAPTER.decode(answer(error=said, usage=usage))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10},
        {"prompt_tokens": 0, "completion_tokens": 1},
        {"prompt_tokens": 10},
        {"prompt_tokens": -7, "completion_tokens": "many"},
        {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0021},
        {"prompt_tokens": 0, "completion_tokens": 0, "completion_tokens_details": {"reasoning_tokens": 7}},
        {"tokens_of_tomorrow": [0, {"seen": 3}]},
        "many",
        7,
    ],
)
@pytest.mark.parametrize("choices", [None, []])
def test_an_error_within_a_200_that_reports_usage_may_be_billed(usage, choices):
    failed = answer(error={"code": 502, "message": "org-Secret1 failed"}, choices=choices, usage=usage)
    with pytest.raises(OutcomeUnknown, match="reported usage") as caught:
        ADAPTER.decode(failed)
    assert "org-" not in str(caught.value)


@pytest.mark.parametrize("depth", [100, 900, 5000])
def test_an_error_with_a_usage_of_endless_depth_may_be_billed(depth):
    body = b'{"error":"failed","usage":' + b"[" * depth + b"1" + b"]" * depth + b"}"
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(WireResponse(status=200, headers={}, body=body))


@pytest.mark.parametrize("said", ["", {}, [], ["failed"], 0, 7, True, False])
def test_an_error_within_a_200_that_says_nothing_is_no_proof_that_the_call_was_free(said):
    with pytest.raises(OutcomeUnknown, match="no choices"):
        ADAPTER.decode(answer(error=said))


def test_an_error_under_another_2xx_may_have_been_billed():
    for status in (201, 202, 206):
        with pytest.raises(OutcomeUnknown):
            ADAPTER.decode(error(status, "Provider returned error"))


def test_an_answer_beside_an_error_is_settled_by_its_usage():
    body = json.loads(completion().body) | {"error": {"code": 502, "message": "it broke off"}}
    decoded = ADAPTER.decode(answer(**body))
    assert (decoded.content, decoded.usage) == ("Hi", Usage(input_tokens=10, output_tokens=5))


def test_an_error_of_null_within_a_200_is_none():
    body = json.loads(completion().body) | {"error": None}
    assert ADAPTER.decode(answer(**body)).content == "Hi"


def test_a_refused_request_passes_the_reason_on_without_what_does_not_print():
    with pytest.raises(Rejected) as caught:
        ADAPTER.decode(error(400, "Unsupported value:\n\x1b[31m'temperature'\u202e" + "!" * 900))
    assert str(caught.value).startswith(
        "the provider refused the request (HTTP 400): Unsupported value: [31m'temperature' !!!"
    )
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 560


def test_a_reason_that_repeats_the_key_loses_it():
    with pytest.raises(Rejected, match=r"bad header \[key\] given"):
        ADAPTER.decode(error(400, f"bad header {KEY} given"))


def test_a_refusal_without_a_reason_says_so():
    with pytest.raises(Rejected, match="it gave no reason"):
        ADAPTER.decode(WireResponse(status=431, headers={}, body=b""))


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405, 407, 410])
def test_what_the_operator_has_to_mend_is_another_candidates_chance(status):
    with pytest.raises(Overloaded, match="operator") as caught:
        ADAPTER.decode(error(status, "Incorrect API key provided: sk-proj-****6789.", "invalid_api_key"))
    assert caught.value.status == status
    assert "sk-" not in str(caught.value)


def test_an_unknown_model_under_another_status_is_the_operators():
    with pytest.raises(Overloaded, match="operator"):
        ADAPTER.decode(error(400, "The model `x` does not exist", "model_not_found"))


def test_a_rate_limit_does_not_name_the_organisation():
    text = "Rate limit reached for gpt-4o in organization org-Secret1"
    with pytest.raises(Overloaded, match="HTTP 429, tokens, rate_limit_exceeded") as caught:
        ADAPTER.decode(error(429, text, "rate_limit_exceeded", kind="tokens"))
    assert "org-" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "20", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "999999999"}, 86_400.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_the_time_to_wait_is_read_from_any_of_its_forms(headers, expected_s):
    with pytest.raises(Overloaded) as caught:
        ADAPTER.decode(error(429, "slow down", headers=headers))
    assert caught.value.retry_after_s == expected_s


@pytest.mark.parametrize("status", [408, 502, 504, 520, 524, 201, 204, 600])
def test_what_an_intermediary_says_in_its_place_may_have_been_billed(status):
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(WireResponse(status=status, headers={}, body=b"<html>Bad Gateway</html>"))


@pytest.mark.parametrize("status", [409, 425, 429, 500, 503, 521, 529])
def test_a_provider_that_is_busy_is_overloaded_even_without_its_envelope(status):
    with pytest.raises(Overloaded):
        ADAPTER.decode(WireResponse(status=status, headers={}, body=b"busy"))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "x", "type": "server_error"}},
        {"error": "llama runner has terminated"},
        {"object": "error", "message": "x", "type": "InternalServerError", "code": 502},
    ],
)
def test_a_502_of_the_provider_itself_is_free(body):
    with pytest.raises(Overloaded):
        ADAPTER.decode(answer(502, **body))
