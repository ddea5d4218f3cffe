"""What recorded answers say they used, class by class, read from the raw JSON independently of the adapters."""

import json
from collections.abc import Mapping
from typing import Any

Classes = dict[str, Any]


def reported(name: str, exchange: Mapping[str, Any]) -> Classes | None:
    """Return the ledger's columns that a recorded 200 should come to; None where it reports no usage.

    Args:
        name: the file the exchange is from, without its ending.
    """
    if exchange["status"] != 200:
        return None
    answer = exchange["response"]
    said = [json.loads(text) for text in _data(answer)] if exchange["stream"] else [answer]
    usages = [usage for each in said for usage in _usages(each)]
    if not usages:
        return None
    merged: dict[str, Any] = {}
    for usage in usages:
        # Anthropic's last event repeats some of what its first said.
        merged.update({key: value for key, value in usage.items() if value is not None})
    columns = _CLASSES[name.partition("-")[0]](merged)
    if name == "openai-embeddings":
        columns["output_tokens"] = 0
    return columns


def _data(stream: str) -> list[str]:
    lines = (line.removeprefix("data:").strip() for line in stream.splitlines() if line.startswith("data:"))
    return [line for line in lines if line and line != "[DONE]"]


def _usages(said: Any) -> list[dict[str, Any]]:
    """Return the usage blocks of an answer or an event."""
    if not isinstance(said, dict):
        return []
    found = [said.get(name) for name in ("usage", "usageMetadata")]
    for name in ("message", "response"):
        if isinstance(said.get(name), dict):
            found += [said[name].get("usage")]
    return [usage for usage in found if usage]


def _anthropic(usage: Mapping[str, Any]) -> Classes:
    thinking = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    split = usage.get("cache_creation") or {}
    hour = split.get("ephemeral_1h_input_tokens") or 0
    columns = {
        "input_tokens": usage["input_tokens"],
        "cached_input_tokens": usage.get("cache_read_input_tokens") or 0,
        "cache_write_tokens": (usage.get("cache_creation_input_tokens") or 0) - hour,
        "cache_write_1h_tokens": hour,
        "output_tokens": usage["output_tokens"] - thinking,
        "reasoning_tokens": thinking,
    }
    return columns | _other(web_searches=(usage.get("server_tool_use") or {}).get("web_search_requests") or 0)


def _openai(usage: Mapping[str, Any]) -> Classes:
    into = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    out = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    written = usage.get("completion_tokens", usage.get("output_tokens", 0))
    cached, cache_write = into.get("cached_tokens") or 0, into.get("cache_write_tokens") or 0
    heard, spoken = into.get("audio_tokens") or 0, out.get("audio_tokens") or 0
    thought = out.get("reasoning_tokens") or 0
    assert usage["total_tokens"] == read + written, "the vendor's own total tells the classes disjoint"
    return {
        "input_tokens": read - cached - cache_write - heard,
        "cached_input_tokens": cached,
        "cache_write_tokens": cache_write,
        "cache_write_1h_tokens": 0,
        "output_tokens": written - thought - spoken,
        "reasoning_tokens": thought,
        "total_tokens": usage["total_tokens"],
    }


def _deepseek(usage: Mapping[str, Any]) -> Classes:
    if "prompt_cache_miss_tokens" not in usage:
        # Its Responses API counts as OpenAI's does.
        return _openai(usage)
    return _openai(usage) | {
        "input_tokens": usage["prompt_cache_miss_tokens"],
        "cached_input_tokens": usage["prompt_cache_hit_tokens"],
    }


def _gemini(usage: Mapping[str, Any]) -> Classes:
    prompt = usage.get("promptTokenCount", 0) + usage.get("toolUsePromptTokenCount", 0)
    cached = usage.get("cachedContentTokenCount", 0)
    into = _of_modality(usage, "promptTokensDetails")
    out = _of_modality(usage, "candidatesTokensDetails")
    written = usage.get("candidatesTokenCount", 0)
    thought = usage.get("thoughtsTokenCount", 0)
    return {
        "input_tokens": prompt - cached - into["AUDIO"] - into["IMAGE"],
        "cached_input_tokens": cached,
        "output_tokens": written - out["AUDIO"] - out["IMAGE"],
        "reasoning_tokens": thought,
        "total_tokens": usage["totalTokenCount"],
    }


def _of_modality(usage: Mapping[str, Any], name: str) -> dict[str, int]:
    counts = {"AUDIO": 0, "IMAGE": 0}
    for detail in usage.get(name) or []:
        if detail["modality"] in counts:
            counts[detail["modality"]] += detail["tokenCount"]
    return counts


def _other(**classes: int) -> Classes:
    found = {name: count for name, count in classes.items() if count}
    return {"other_usage": json.dumps(found, separators=(",", ":")) if found else ""}


_CLASSES = {"anthropic": _anthropic, "openai": _openai, "deepseek": _deepseek, "gemini": _gemini}
