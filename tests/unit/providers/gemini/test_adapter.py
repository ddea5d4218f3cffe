import json
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import OutcomeUnknown, Overloaded, Rejected, WireResponse
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.usage import Usage

ADAPTER = GeminiAdapter(base_url="https://generativelanguage.googleapis.com", api_key="AIza0123456789")


def answer(status: int = 200, **body: Any) -> WireResponse:
    return WireResponse(status=status, headers={}, body=json.dumps(body).encode())


def generated(*parts: Any, usage: Any = None, finish: str | None = "STOP") -> WireResponse:
    parts = parts or ({"text": "Hi"},)
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15} if usage is None else usage
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return answer(candidates=[candidate], usageMetadata=usage, modelVersion="gemini-2.5-flash", responseId="r-1")


def error(status: int, text: str, name: str, *details: Any) -> WireResponse:
    return answer(status, error={"code": status, "message": text, "status": name, "details": list(details)})


def test_the_smallest_request_is_golden():
    request = ProviderRequest(model="gemini-2.5-flash", messages=(Message("user", "Hello"),), max_tokens=400)
    wire = ADAPTER.encode(request)
    assert wire.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert wire.headers == (("x-goog-api-key", "AIza0123456789"),)
    assert json.loads(wire.body) == {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"maxOutputTokens": 400},
    }


def test_the_fullest_request_is_golden():
    request = ProviderRequest(
        model="models/gemini-x",
        messages=(
            Message("system", "Be brief."),
            Message("user", "One"),
            Message("assistant", "Two"),
            Message("system", "Be kind."),
        ),
        max_tokens=7,
        temperature=0.0,
        stop=("END",),
        response_schema={"type": "object"},
    )
    wire = ADAPTER.encode(request)
    assert wire.path == "/v1beta/models/gemini-x:generateContent"
    assert json.loads(wire.body) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [{"role": "user", "parts": [{"text": "One"}]}, {"role": "model", "parts": [{"text": "Two"}]}],
        "generationConfig": {
            "maxOutputTokens": 7,
            "temperature": 0.0,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
    }


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("tunedModels/ours", "/v1beta/tunedModels/ours:generateContent"),
        ("a b?c", "/v1beta/models/a%20b%3Fc:generateContent"),
    ],
)
def test_the_model_is_safe_in_the_path(model, path):
    assert ADAPTER.encode(ProviderRequest(model=model, messages=(Message("user", "x"),), max_tokens=1)).path == path


def test_system_turns_alone_are_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"^messages: expected at least one turn of the user"):
        ADAPTER.encode(ProviderRequest(model="m", messages=(Message("system", "x"),), max_tokens=1))


def test_an_answer_is_golden():
    assert ADAPTER.decode(generated()) == ProviderAnswer(
        content="Hi",
        finish_reason="stop",
        usage=Usage(input_tokens=10, output_tokens=5),
        provider_request_id="r-1",
    )


def test_every_class_of_usage_is_counted_once():
    usage = {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 600,
        "toolUsePromptTokenCount": 30,
        "candidatesTokenCount": 70,
        "thoughtsTokenCount": 200,
        "totalTokenCount": 1300,
    }
    assert ADAPTER.decode(generated(usage=usage)).usage == Usage(
        input_tokens=430, cached_input_tokens=600, output_tokens=70, reasoning_tokens=200
    )


def test_thoughts_that_only_the_total_counts_are_counted():
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 40}
    assert ADAPTER.decode(generated(usage=usage)).usage == Usage(input_tokens=10, output_tokens=5, reasoning_tokens=25)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        "many",
        {"candidatesTokenCount": 5},
        {"promptTokenCount": -1},
        {"promptTokenCount": "10"},
        {"promptTokenCount": 10, "thoughtsTokenCount": 10**9 + 1},
        {"promptTokenCount": 10, "cachedContentTokenCount": 11},
    ],
)
def test_a_usage_that_cannot_be_read_does_not_cost_the_answer(usage):
    decoded = ADAPTER.decode(generated(usage=usage))
    assert decoded.content == "Hi"
    assert decoded.usage is None


def test_thoughts_and_other_parts_are_not_content():
    parts = [
        {"text": "hm", "thought": True},
        {"text": "One", "thoughtSignature": "x"},
        {"executableCode": {"code": "1"}},
        {"text": " two"},
    ]
    assert ADAPTER.decode(generated(*parts)).content == "One two"


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        (None, "other"),
    ],
)
def test_finish_reasons_are_mapped(finish, expected):
    assert ADAPTER.decode(generated(finish=finish)).finish_reason == expected


def test_an_answer_that_thinking_used_up_is_empty():
    usage = {"promptTokenCount": 15, "thoughtsTokenCount": 2, "totalTokenCount": 17}
    decoded = ADAPTER.decode(answer(candidates=[{"finishReason": "MAX_TOKENS"}], usageMetadata=usage))
    assert decoded == ProviderAnswer("", "length", Usage(input_tokens=15, reasoning_tokens=2))


def test_a_blocked_prompt_is_an_empty_answer_with_its_usage():
    usage = {"promptTokenCount": 12, "totalTokenCount": 12}
    blocked = answer(promptFeedback={"blockReason": "PROHIBITED_CONTENT"}, usageMetadata=usage, responseId="r-2")
    assert ADAPTER.decode(blocked) == ProviderAnswer("", "content_filter", Usage(input_tokens=12), "r-2")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"candidates":[]}', b'{"candidates":[],"promptFeedback":{}}'])
def test_a_200_without_candidates_may_have_been_billed(body):
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(WireResponse(status=200, headers={}, body=body))


@pytest.mark.parametrize(
    "usage", [{}, {"usageMetadata": {"promptTokenCount": 0}}, {"usageMetadata": {"promptTokenCount": 9}}]
)
@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_an_error_under_a_2xx_may_have_been_billed(status, usage):
    # Google itself never answers so: whoever does in its place has said nothing about its bill.
    failed = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}, **usage}
    with pytest.raises(OutcomeUnknown):
        ADAPTER.decode(answer(status, **failed))


def test_a_quota_says_when_to_come_back():
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"}
    with pytest.raises(Overloaded, match="RESOURCE_EXHAUSTED") as caught:
        ADAPTER.decode(error(429, "Quota exceeded for project 1234", "RESOURCE_EXHAUSTED", {"reason": 3}, retry))
    assert caught.value.retry_after_s == 31.0
    assert "1234" not in str(caught.value)


def test_an_error_in_a_list_is_read_as_well():
    body = json.dumps([{"error": {"code": 400, "message": "Unknown name", "status": "INVALID_ARGUMENT"}}]).encode()
    with pytest.raises(Rejected, match="Unknown name"):
        ADAPTER.decode(WireResponse(status=400, headers={}, body=body))


def test_a_refused_request_passes_the_reason_on():
    with pytest.raises(Rejected, match="Invalid JSON payload"):
        ADAPTER.decode(error(400, "Invalid JSON payload received.", "INVALID_ARGUMENT"))


@pytest.mark.parametrize(
    ("status", "name", "details"),
    [
        (400, "INVALID_ARGUMENT", [{"@type": "…ErrorInfo", "reason": "API_KEY_INVALID"}]),
        (400, "FAILED_PRECONDITION", []),
        (403, "PERMISSION_DENIED", []),
        (404, "NOT_FOUND", []),
    ],
)
def test_what_the_operator_has_to_mend_is_another_candidates_chance(status, name, details):
    with pytest.raises(Overloaded, match="operator") as caught:
        ADAPTER.decode(error(status, "API key not valid: AIza0123456789", name, *details))
    assert "AIza" not in str(caught.value)
