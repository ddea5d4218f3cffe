"""Every recorded exchange of this format, whole and streamed: usage class by class, and what the model made."""

import json
from collections import Counter
from typing import Any

import pytest

from harness.recorded import RECORDED
from tollhouse.completions.wire.chat.api import ChatApi
from tollhouse.completions.wire.chat.request import provider_request
from tollhouse.providers.base import Overloaded, Rejected, WireResponse
from tollhouse.providers.conversation import (
    Finished,
    PartBegun,
    PartEnded,
    PartGrew,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage


def recorded(name: str) -> list[dict[str, Any]]:
    file = RECORDED / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def chats(name: str) -> list[dict[str, Any]]:
    return [x for x in recorded(name) if x["path"].endswith("/chat/completions")]


def adapter(kind: str) -> Any:
    return adapter_for(kind, base_url=DEFAULT_BASE_URLS[kind], api_key="sk-0123456789")


def wire(exchange: dict[str, Any]) -> WireResponse:
    return WireResponse(exchange["status"], {}, json.dumps(exchange["response"]).encode())


def expected_usage(reported: dict[str, Any]) -> Usage:
    """Sort a raw usage block, independently of the adapter."""
    into, out = reported["prompt_tokens_details"], reported["completion_tokens_details"]
    cached, written, heard = (into.get(n, 0) for n in ("cached_tokens", "cache_write_tokens", "audio_tokens"))
    thought, spoken = out["reasoning_tokens"], out.get("audio_tokens", 0)
    return Usage(
        input_tokens=reported["prompt_tokens"] - cached - written - heard,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        audio_input_tokens=heard,
        output_tokens=reported["completion_tokens"] - thought - spoken,
        reasoning_tokens=thought,
        audio_output_tokens=spoken,
    )


def assembled(events: list[StreamEvent]) -> tuple[list[Text | Thinking | ToolCall], str]:
    """Put a stream's events together, and check that they keep the rules of the neutral model."""
    parts: dict[int, Any] = {}
    grown: dict[int, str] = {}
    ended: set[int] = set()
    finished = ""
    for event in events:
        assert not finished, "nothing comes after the end"
        if isinstance(event, PartBegun):
            assert event.index == len(parts)
            parts[event.index], grown[event.index] = event.part, ""
        elif isinstance(event, PartGrew):
            assert event.index not in ended
            grown[event.index] += event.text
        elif isinstance(event, PartEnded):
            assert event.index not in ended
            ended.add(event.index)
        else:
            finished = event.finish_reason
    assert ended == set(parts)
    made: list[Text | Thinking | ToolCall] = []
    for index, part in parts.items():
        if isinstance(part, ToolCall):
            made.append(ToolCall(part.id, part.name, grown[index]))
        else:
            made.append(type(part)(grown[index]))
    return made, finished


@pytest.mark.parametrize(("kind", "name", "count"), [("openai", "openai-chat", 68), ("deepseek", "deepseek", 3)])
def test_every_whole_answer(kind, name, count):
    seen = 0
    for exchange in chats(name):
        if exchange["stream"] or exchange["status"] != 200:
            continue
        seen += 1
        sent = exchange["response"]
        message, answer = sent["choices"][0]["message"], adapter(kind).decode(wire(exchange))
        assert answer.usage == expected_usage(sent["usage"]), exchange["id"]
        assert answer.content == (message["content"] or "")
        assert [(part.id, part.name, part.arguments) for part in answer.parts if isinstance(part, ToolCall)] == [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []
        ]
        assert [part.text for part in answer.parts if isinstance(part, Thinking)] == [
            thought for thought in [message.get("reasoning_content")] if thought
        ]
        assert answer.finish_reason == (
            "tool_calls" if message.get("tool_calls") else sent["choices"][0]["finish_reason"]
        )
    assert seen == count


def test_every_refusal():
    statuses: Counter[int] = Counter()
    for exchange in chats("openai-chat"):
        if exchange["status"] != 200:
            statuses[exchange["status"]] += 1
            with pytest.raises(Rejected) as caught:
                adapter("openai").decode(wire(exchange))
            assert exchange["response"]["error"]["message"] in str(caught.value)
    assert statuses == {400: 2}


def test_every_stream():
    seen = 0
    for exchange in chats("openai-chat"):
        if not exchange["stream"]:
            continue
        seen += 1
        reader, parser = adapter("openai").stream_reader(), EventParser(1 << 20)
        raw = exchange["response"].encode()
        events: list[StreamEvent] = []
        for start in range(0, len(raw), 97):
            for event in parser.feed(raw[start : start + 97]):
                events.extend(reader.read(event))
        assert parser.rest() == b""
        text, calls, usage, finish, call_id = from_raw(exchange["response"])
        parts, finished = assembled(events)
        assert reader.usage == expected_usage(usage), exchange["id"]
        assert reader.provider_request_id == call_id
        assert "".join(part.text for part in parts if isinstance(part, Text)) == text
        assert [part for part in parts if isinstance(part, ToolCall)] == calls
        assert finished == finish
    assert seen == 11


def from_raw(stream: str) -> tuple[str, list[ToolCall], dict[str, Any], str, str]:
    text = finish = call_id = ""
    calls: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    for line in stream.splitlines():
        if not line.startswith("data: {"):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        call_id, usage = chunk["id"], chunk["usage"] or usage
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
            for call in choice["delta"].get("tool_calls") or []:
                known = calls.setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
    return text, [ToolCall(**call) for call in calls.values()], usage, finish, call_id


def test_every_embedding():
    dialect = adapter("openai").dialect("embeddings")
    outcomes = []
    for exchange in recorded("openai-embeddings"):
        if exchange["status"] == 200:
            answer = dialect.decode(wire(exchange))
            assert answer.content == ""
            outcomes.append(answer.usage)
        else:
            with pytest.raises(Overloaded, match="operator"):
                dialect.decode(wire(exchange))
            outcomes.append(None)
    assert outcomes == [None, Usage(input_tokens=4), Usage(input_tokens=4)]


# What recorded requests ask for that no other vendor can be asked for.
UNTRANSLATABLE = ('"moderation"', '"web_search_options"', '"file_id"')


@pytest.mark.parametrize(("kind", "name"), [("openai", "openai-chat"), ("deepseek", "deepseek")])
def test_every_request_read_and_written_again_says_the_same(kind, name):
    """A request that goes through the neutral model comes out as what it was, but for names of one meaning."""
    compared = 0
    for exchange in chats(name):
        sent = exchange["request"]
        if any(field in json.dumps(sent) for field in UNTRANSLATABLE):
            continue
        asked = ChatApi().read(json.dumps(sent).encode())
        written = json.loads(adapter(kind).encode(provider_request(asked, 4096)).body)
        assert normal(written) == normal(sent), exchange["id"]
        compared += 1
    assert compared == {"openai-chat": 75, "deepseek": 3}[name]


def normal(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request without what has no effect, and with one name for what has two."""
    idle = {"n", "stream", "max_tokens", "max_completion_tokens", "prompt_cache_key", "prompt_cache_options"}
    left = {name: value for name, value in request.items() if name not in idle}
    if left.get("stop") and isinstance(left["stop"], str):
        left["stop"] = [left["stop"]]
    if "response_format" in left:
        described = left["response_format"].get("json_schema", {})
        left["response_format"] = (left["response_format"]["type"], described.get("name"))
    messages: list[dict[str, Any]] = []
    for message in left["messages"]:
        role = "system" if message["role"] == "developer" else message["role"]
        same = {**message, "role": role, "content": bare(message.get("content"))}
        plain = same.keys() == {"role", "content"} and isinstance(same["content"], str)
        if plain and messages and messages[-1]["role"] == role and messages[-1].keys() == same.keys():
            messages[-1]["content"] += "\n\n" + same["content"]
        else:
            messages.append(same)
    left["messages"] = messages
    return left


def bare(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts = [{k: v for k, v in part.items() if k != "prompt_cache_breakpoint"} for part in content]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def test_a_recorded_stream_ends_once():
    exchange = next(x for x in chats("openai-chat") if x["stream"])
    reader = adapter("openai").stream_reader()
    events = [e for event in EventParser(1 << 20).feed(exchange["response"].encode()) for e in reader.read(event)]
    assert [e for e in events if isinstance(e, Finished)] == [Finished("stop")]
