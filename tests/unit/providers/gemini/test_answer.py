import json
from typing import Any

import pytest

from tollhouse.providers.base import OutcomeUnknown, Overloaded, WireResponse
from tollhouse.providers.conversation import ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.usage import Usage

ADAPTER = GeminiAdapter(base_url="https://generativelanguage.googleapis.com", api_key="AIza0123456789")


def answered(parts: list[Any], usage: Any = None, finish: str = "STOP", **candidate: Any) -> ProviderAnswer:
    usage = usage or {"promptTokenCount": 2, "totalTokenCount": 2}
    body = {
        "candidates": [{"content": {"parts": parts}, "finishReason": finish, **candidate}],
        "usageMetadata": usage,
        "responseId": "r-1",
        "modelVersion": "gemini-3-flash-preview",
    }
    return ADAPTER.decode(WireResponse(200, {}, json.dumps(body, indent=1).encode()))


def test_calls_and_thoughts_are_parts():
    answer = answered(
        [
            {"text": "hm", "thought": True},
            {"text": "So:"},
            {"functionCall": {"id": "c1", "name": "f", "args": {"a": [1, 2.50, "x y"]}}, "thoughtSignature": "YQ=="},
        ]
    )
    assert answer.parts == (
        Thinking("hm"),
        Text("So:"),
        ToolCall("c1", "f", '{"a":[1,2.5,"x y"]}', signature="YQ=="),
    )
    assert answer.content == "So:"
    assert answer.finish_reason == "tool_calls"


def test_a_call_without_an_id_gets_one_of_its_own_and_always_the_same():
    call = {"functionCall": {"name": "f"}}
    first, again = answered([call, call]).parts, answered([call, call]).parts
    assert first == again
    one, two = first
    assert isinstance(one, ToolCall)
    assert isinstance(two, ToolCall)
    assert one.id != two.id
    assert one.arguments == two.arguments == "{}"


@pytest.mark.parametrize(("finish", "expected"), [("MAX_TOKENS", "length"), ("SAFETY", "content_filter")])
def test_an_answer_that_was_cut_off_says_so_even_after_a_call(finish, expected):
    assert answered([{"functionCall": {"name": "f"}}], finish=finish).finish_reason == expected


@pytest.mark.parametrize("args", [[1], "x", 3])
def test_arguments_that_are_no_object_cannot_be_read(args):
    with pytest.raises(OutcomeUnknown):
        answered([{"functionCall": {"name": "f", "args": args}}])


def detail(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": count} for modality, count in counts.items()]


def test_sound_and_pictures_have_classes_of_their_own():
    usage = {
        "promptTokenCount": 1000,
        "promptTokensDetails": detail(TEXT=300, AUDIO=400, IMAGE=200, VIDEO=60, DOCUMENT=40),
        "cachedContentTokenCount": 350,
        "cacheTokensDetails": detail(TEXT=150, AUDIO=150, IMAGE=50),
        "toolUsePromptTokenCount": 30,
        "toolUsePromptTokensDetails": detail(TEXT=20, IMAGE=10),
        "candidatesTokenCount": 1400,
        "candidatesTokensDetails": detail(TEXT=10, IMAGE=1290, AUDIO=100),
        "thoughtsTokenCount": 70,
        "totalTokenCount": 2500,
    }
    found = answered([], usage).usage
    assert found == Usage(
        input_tokens=270,
        cached_input_tokens=350,
        audio_input_tokens=250,
        image_input_tokens=160,
        output_tokens=10,
        image_output_tokens=1290,
        audio_output_tokens=100,
        reasoning_tokens=70,
    )
    assert found.total_tokens == 2500


@pytest.mark.parametrize(
    ("details", "sound"),
    [(None, 0), ("x", 0), ([3], 0), (detail(AUDIO=-1), 0), (detail(AUDIO=10**10), 0), (detail(AUDIO=99), 6)],
)
def test_details_that_are_wrong_cost_no_token(details, sound):
    usage = {
        "promptTokenCount": 10,
        "cachedContentTokenCount": 4,
        "promptTokensDetails": details,
        "candidatesTokenCount": 3,
        "candidatesTokensDetails": details,
    }
    found = answered([], usage).usage
    assert found is not None
    assert found.total_tokens == 13
    assert found.audio_input_tokens == sound
    assert found.cached_input_tokens == 4


def test_searches_of_the_third_generation_are_billed_by_query():
    assert answered([], groundingMetadata={"webSearchQueries": ["a", "b", "a", "", 3]}).usage == Usage(
        input_tokens=2, web_searches=3
    )


@pytest.mark.parametrize("grounding", [None, [], {"webSearchQueries": None}, {"webSearchQueries": {}}])
def test_no_query_is_no_search(grounding):
    assert answered([], groundingMetadata=grounding).usage == Usage(input_tokens=2)


def test_a_relayed_request_is_as_it_came_but_for_the_model():
    body = {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"google_search": {}}], "model": "models/alias"}
    headers = {"x-goog-api-key": "theirs", "x-goog-api-client": "google-genai-sdk/3", "cookie": "a", "x-other": "b"}
    dialect = ADAPTER.dialect("gemini")
    assert dialect is ADAPTER
    wire = ADAPTER.relay(body, model="gemini-2.5-pro", stream=True, headers=headers)
    assert wire.path == "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    assert wire.headers == (("x-goog-api-key", "AIza0123456789"), ("x-goog-api-client", "google-genai-sdk/3"))
    assert json.loads(wire.body) == {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"google_search": {}}]}
    assert ADAPTER.relay({}, model="m", stream=False, headers={}).path == "/v1beta/models/m:generateContent"


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "embeddings"])
def test_other_apis_are_not_googles(api):
    assert ADAPTER.dialect(api) is None


def test_a_single_embedding_is_relayed_to_its_own_method():
    embeddings = ADAPTER.dialect("gemini-embeddings")
    assert embeddings is not None
    wire = embeddings.relay({"content": {}}, model="e-1", stream=False, headers={})
    assert wire.path == "/v1beta/models/e-1:embedContent"
    assert json.loads(wire.body) == {"content": {}}
    renamed = embeddings.relay({"content": {}, "model": "models/alias"}, model="e-1", stream=False, headers={})
    assert json.loads(renamed.body) == {"content": {}, "model": "models/e-1"}
    decoded = embeddings.decode(WireResponse(200, {}, b'{"embedding":{"values":[0.5]}}'))
    assert decoded == ProviderAnswer("", "stop", None)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"promptTokenCount": 7}, Usage(input_tokens=7)),
        (
            {
                "promptTokenCount": 300,
                "promptTokenDetails": [
                    {"modality": "TEXT", "tokenCount": 10},
                    {"modality": "IMAGE", "tokenCount": 258},
                    {"modality": "AUDIO", "tokenCount": 32},
                ],
            },
            Usage(input_tokens=10, image_input_tokens=258, audio_input_tokens=32),
        ),
        ({"promptTokenCount": 7, "promptTokenDetails": "?"}, Usage(input_tokens=7)),
        ({"promptTokenCount": "seven"}, None),
        ({"promptTokenCount": -1}, None),
        ([], None),
    ],
)
def test_usage_that_comes_with_embeddings_is_read(reported, usage):
    embeddings = ADAPTER.dialect("gemini-embeddings")
    assert embeddings is not None
    body = json.dumps({"embeddings": [{"values": [0.5]}], "usageMetadata": reported}, indent=1).encode()
    assert embeddings.decode(WireResponse(200, {}, body)) == ProviderAnswer("", "stop", usage)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"embedding":3}', b'{"error":{}}'])
def test_an_embedding_that_is_none_may_have_been_billed(body):
    embeddings = ADAPTER.dialect("gemini-embeddings")
    assert embeddings is not None
    with pytest.raises(OutcomeUnknown):
        embeddings.decode(WireResponse(200, {}, body))
    with pytest.raises(Overloaded):
        embeddings.decode(WireResponse(429, {}, body))
