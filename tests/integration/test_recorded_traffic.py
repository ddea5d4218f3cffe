"""What the providers really sent, decoded: usage and text compared with expectations read from the raw JSON here."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tollhouse.providers.base import Rejected, Usage, WireResponse
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "recorded"
# For each kind: the file, what its paths end with, and how many exchanges of each status the snapshot holds.
COVERED = {
    "anthropic": ("anthropic-messages.jsonl", "/v1/messages", {200: 128}),
    "openai": ("openai-chat.jsonl", "/v1/chat/completions", {200: 68, 400: 2}),
    "deepseek": ("deepseek.jsonl", "/chat/completions", {200: 3}),
    "gemini": ("gemini-generate.jsonl", ":generateContent", {200: 148}),
}


def exchanges(kind: str) -> list[dict[str, Any]]:
    name, path_end, _ = COVERED[kind]
    file = RECORDED / name
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [x for x in lines if not x["stream"] and x["path"].endswith(path_end)]


def wire(exchange: dict[str, Any]) -> WireResponse:
    headers = {"content-type": exchange["content_type"]}
    return WireResponse(exchange["status"], headers, json.dumps(exchange["response"]).encode())


def anthropic_expectation(sent: dict[str, Any]) -> tuple[str, dict[str, int]]:
    usage = sent["usage"]
    thinking = usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
    return "".join(block["text"] for block in sent["content"] if block["type"] == "text"), {
        "input_tokens": usage["input_tokens"],
        "cached_input_tokens": usage["cache_read_input_tokens"],
        "cache_write_tokens": usage["cache_creation"]["ephemeral_5m_input_tokens"],
        "cache_write_1h_tokens": usage["cache_creation"]["ephemeral_1h_input_tokens"],
        "output_tokens": usage["output_tokens"] - thinking,
        "reasoning_tokens": thinking,
    }


def openai_expectation(sent: dict[str, Any]) -> tuple[str, dict[str, int]]:
    usage = sent["usage"]
    into, out = usage["prompt_tokens_details"], usage["completion_tokens_details"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return sent["choices"][0]["message"]["content"] or "", {
        "input_tokens": usage["prompt_tokens"] - into["cached_tokens"] - into.get("cache_write_tokens", 0),
        "cached_input_tokens": into["cached_tokens"],
        "cache_write_tokens": into.get("cache_write_tokens", 0),
        "cache_write_1h_tokens": 0,
        "output_tokens": usage["completion_tokens"] - out["reasoning_tokens"],
        "reasoning_tokens": out["reasoning_tokens"],
    }


def deepseek_expectation(sent: dict[str, Any]) -> tuple[str, dict[str, int]]:
    usage = sent["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return sent["choices"][0]["message"]["content"] or "", {
        "input_tokens": usage["prompt_cache_miss_tokens"],
        "cached_input_tokens": usage["prompt_cache_hit_tokens"],
        "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0,
        "output_tokens": usage["completion_tokens"] - reasoning,
        "reasoning_tokens": reasoning,
    }


def gemini_expectation(sent: dict[str, Any]) -> tuple[str, dict[str, int]]:
    usage, count = sent["usageMetadata"], sent["usageMetadata"].get
    parts = sent["candidates"][0]["content"].get("parts", [])
    cached = count("cachedContentTokenCount", 0)
    classes = {
        "input_tokens": usage["promptTokenCount"] - cached + count("toolUsePromptTokenCount", 0),
        "cached_input_tokens": cached,
        "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0,
        "output_tokens": count("candidatesTokenCount", 0),
        "reasoning_tokens": count("thoughtsTokenCount", 0),
    }
    assert sum(classes.values()) == usage["totalTokenCount"], "the vendor's own total tells the classes disjoint"
    return "".join(part["text"] for part in parts if "text" in part and not part.get("thought")), classes


EXPECTATIONS = {
    "anthropic": anthropic_expectation,
    "openai": openai_expectation,
    "deepseek": deepseek_expectation,
    "gemini": gemini_expectation,
}


@pytest.mark.parametrize("kind", COVERED)
def test_every_recorded_answer_has_its_usage_class_by_class_and_its_text(kind):
    adapter = adapter_for(kind, base_url=DEFAULT_BASE_URLS[kind], api_key="k")
    seen: Counter[int] = Counter()
    for exchange in exchanges(kind):
        seen[exchange["status"]] += 1
        if exchange["status"] == 200:
            answer = adapter.decode(wire(exchange))
            text, classes = EXPECTATIONS[kind](exchange["response"])
            assert answer.usage == Usage(**classes), exchange["id"]
            assert answer.content == text, exchange["id"]
            assert answer.finish_reason != "other", exchange["id"]
        else:
            with pytest.raises(Rejected) as refused:
                adapter.decode(wire(exchange))
            assert exchange["response"]["error"]["message"] in str(refused.value), exchange["id"]
    # The counts guard against an expectation that silently covers nothing.
    assert seen == COVERED[kind][2]
