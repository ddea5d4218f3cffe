"""What a client's request becomes for one candidate."""

import json

import pytest

from harness.providers import Provider, candidate
from tollhouse.completions.relayed import ApiQuestion
from tollhouse.completions.weight import Weight
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.errors import InvalidRequest
from tollhouse.providers.registry import adapter_for

CHAT, RESPONSES, MESSAGES = (CLIENT_APIS[f"/v1/{name}"] for name in ("chat/completions", "responses", "messages"))
GEMINI = GEMINI_VERBS["generateContent"][0]
TURNS = [{"role": "user", "content": "Hi"}]
AUDIO = {"type": "input_audio", "input_audio": {"data": "aWk=", "format": "wav"}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("api", "provider", "body", "begins"),
    [
        (CHAT, "anthropic", {"messages": TURNS, "response_format": {"type": "json_object"}}, "response_format: "),
        (CHAT, "anthropic", {"messages": [{"role": "user", "content": [AUDIO]}]}, "messages: "),
        (CHAT, "gemini", {"messages": TURNS, "tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls: "),
        (RESPONSES, "anthropic", {"input": [{"role": "user", "content": [AUDIO]}]}, "input: "),
        (
            RESPONSES,
            "deepseek",
            {"input": "Hi", "text": {"format": {"type": "json_schema", "schema": {}}}},
            "text.format: ",
        ),
        (
            MESSAGES,
            "gemini",
            {
                "max_tokens": 9,
                "messages": TURNS,
                "tools": [{"name": "f", "input_schema": {}}],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            },
            "tool_choice.disable_parallel_tool_use: ",
        ),
        (
            GEMINI,
            "anthropic",
            {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"seed": 1}},
            "generationConfig.seed: ",
        ),
    ],
)
def test_what_a_provider_cannot_be_asked_is_refused_in_the_clients_words(api, provider, body, begins):
    asked = api.read(json.dumps({"model": "m", **body}).encode(), "m")
    adapter = adapter_for(provider, base_url="https://p.example.com", api_key="")
    question = ApiQuestion(api, asked, 9, Weight(1), 1, {})
    with pytest.raises(InvalidRequest) as refused:
        question.prepare(candidate("m", Provider(), adapter=adapter))
    assert refused.value.message.startswith(begins)
