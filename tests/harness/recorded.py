"""What the providers really sent, and what it says, read from the raw JSON independently of the adapters."""

import json
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "recorded"
# For each kind: the file, what its paths end with, and how many exchanges of each status the snapshot holds.
COVERED = {
    "anthropic": ("anthropic-messages.jsonl", "/v1/messages", {200: 128}),
    "openai": ("openai-chat.jsonl", "/v1/chat/completions", {200: 68, 400: 2}),
    "deepseek": ("deepseek.jsonl", "/chat/completions", {200: 3}),
    "gemini": ("gemini-generate.jsonl", ":generateContent", {200: 148}),
}


def exchanges(kind: str) -> list[dict[str, Any]]:
    """Return the recorded exchanges that a kind's adapter covers; skips the test where there are none at hand."""
    name, path_end, _ = COVERED[kind]
    file = RECORDED / name
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [x for x in lines if not x["stream"] and x["path"].endswith(path_end)]


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
    apart = {"AUDIO": 0, "IMAGE": 0}
    for each in usage["promptTokensDetails"]:
        if each["modality"] in apart:
            apart[each["modality"]] += each["tokenCount"]
    assert not cached or not any(apart.values()), "no recorded sound or picture came from a cache"
    fresh = usage["promptTokenCount"] - cached + count("toolUsePromptTokenCount", 0)
    classes = {
        "input_tokens": fresh - sum(apart.values()),
        "audio_input_tokens": apart["AUDIO"],
        "image_input_tokens": apart["IMAGE"],
        "cached_input_tokens": cached,
        "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0,
        "output_tokens": count("candidatesTokenCount", 0),
        "reasoning_tokens": count("thoughtsTokenCount", 0),
    }
    assert sum(classes.values()) == usage["totalTokenCount"], "the vendor's own total tells the classes disjoint"
    queries = sent["candidates"][0].get("groundingMetadata", {}).get("webSearchQueries", [])
    assert len(queries) <= 1, "with one query, billing by answer and by query are the same"
    classes["web_searches"] = len(queries)
    return "".join(part["text"] for part in parts if "text" in part and not part.get("thought")), classes


# For each kind, what a 200's body says: its text, and its tokens class by class.
EXPECTATIONS = {
    "anthropic": anthropic_expectation,
    "openai": openai_expectation,
    "deepseek": deepseek_expectation,
    "gemini": gemini_expectation,
}
