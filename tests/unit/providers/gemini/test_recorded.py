"""What Google really sent, whole and streamed, against what the raw JSON says, read independently of the adapter."""

import json
from typing import Any

import pytest

from harness.recorded import RECORDED
from tollhouse.providers.base import WireResponse
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
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage

ADAPTER = GeminiAdapter(base_url="https://generativelanguage.googleapis.com", api_key="k")


def lines(name: str) -> list[dict[str, Any]]:
    file = RECORDED / name
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def expected_usage(usage: dict[str, Any], queries: int) -> Usage:
    def apart(details: str, modality: str) -> int:
        return sum(each["tokenCount"] for each in usage.get(details, []) if each["modality"] == modality)

    sound, pictures = apart("promptTokensDetails", "AUDIO"), apart("promptTokensDetails", "IMAGE")
    drawn = apart("candidatesTokensDetails", "IMAGE")
    cached = usage.get("cachedContentTokenCount", 0)
    expected = Usage(
        input_tokens=usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0) - cached - sound - pictures,
        cached_input_tokens=cached,
        output_tokens=usage.get("candidatesTokenCount", 0) - drawn,
        reasoning_tokens=usage.get("thoughtsTokenCount", 0),
        audio_input_tokens=sound,
        image_input_tokens=pictures,
        image_output_tokens=drawn,
        web_searches=queries,
    )
    assert expected.total_tokens == usage["totalTokenCount"], "Google's own total tells the classes disjoint"
    return expected


def parts_of(chunks: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return what the raw chunks say: texts put together while they are of one kind, and calls."""
    found: list[tuple[str, Any]] = []
    for chunk in chunks:
        for part in chunk["candidates"][0]["content"].get("parts", []):
            if "functionCall" in part:
                call = part["functionCall"]
                found.append(("call", (call["name"], call["args"], part.get("thoughtSignature"), call.get("id"))))
            elif part.get("text"):
                kind = "thought" if part.get("thought") else "text"
                if found and found[-1][0] == kind:
                    found[-1] = (kind, found[-1][1] + part["text"])
                else:
                    found.append((kind, part["text"]))
    return found


def neutral(parts: list[Text | ToolCall | Thinking]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for part in parts:
        match part:
            case ToolCall(call_id, name, arguments, signature):
                assert call_id
                found.append(("call", (name, json.loads(arguments), signature, call_id)))
            case Text(text) | Thinking(text) if text:
                kind = "thought" if isinstance(part, Thinking) else "text"
                if found and found[-1][0] == kind:
                    found[-1] = (kind, found[-1][1] + text)
                else:
                    found.append((kind, text))
    return found


def check_parts(found: list[tuple[str, Any]], sent: list[tuple[str, Any]]) -> None:
    assert len(found) == len(sent)
    for (kind, value), (sent_kind, sent_value) in zip(found, sent, strict=True):
        assert kind == sent_kind
        if kind == "call" and sent_value[3] is None:
            assert value[:3] == sent_value[:3]  # The id is made up.
        else:
            assert value == sent_value


def queries(chunks: list[dict[str, Any]]) -> int:
    found = [q for c in chunks for q in c["candidates"][0].get("groundingMetadata", {}).get("webSearchQueries", [])]
    assert len(found) <= 1, "with one query, billing by answer and by query are the same"
    return len(found)


def put_together(events: list[StreamEvent]) -> tuple[list[Text | ToolCall | Thinking], str | None]:
    """Return a stream's parts and its finish reason; checks that parts begin in order and end."""
    parts: list[Text | ToolCall | Thinking] = []
    opened: set[int] = set()
    finish = None
    for event in events:
        assert finish is None, "nothing comes after the end"
        match event:
            case PartBegun(index, part):
                assert index == len(parts)
                parts.append(part)
                opened.add(index)
            case PartGrew(index, text, signature):
                assert index in opened
                part = parts[index]
                if isinstance(part, ToolCall):
                    parts[index] = ToolCall(part.id, part.name, part.arguments + text, signature or part.signature)
                elif isinstance(part, Thinking):
                    parts[index] = Thinking(part.text + text, signature or part.signature)
                else:
                    parts[index] = Text(part.text + text)
            case PartEnded(index):
                opened.remove(index)
            case Finished(reason):
                finish = reason
    assert not opened
    return parts, finish


def read_stream(raw: bytes, step: int) -> tuple[list[StreamEvent], Any]:
    parser, reader = EventParser(1_000_000), ADAPTER.stream_reader()
    events: list[StreamEvent] = []
    for start in range(0, len(raw), step):
        for event in parser.feed(raw[start : start + step]):
            events += reader.read(event)
    assert parser.rest() == b""
    return events, reader


def test_every_whole_answer():
    seen = 0
    for exchange in lines("gemini-generate.jsonl"):
        sent = exchange["response"]
        if exchange["path"].endswith(":streamGenerateContent"):
            continue
        # One was asked for as a stream where it is none, and is kept as text.
        sent = json.loads(sent) if isinstance(sent, str) else sent
        answer = ADAPTER.decode(WireResponse(exchange["status"], {}, json.dumps(sent, indent=2).encode()))
        assert answer.usage == expected_usage(sent["usageMetadata"], queries([sent])), exchange["id"]
        said = parts_of([sent])
        assert answer.content == "".join(text for kind, text in said if kind == "text")
        assert answer.provider_request_id == sent.get("responseId")
        check_parts(neutral(list(answer.parts) or [Text(answer.content)]), said)
        has_call = any(kind == "call" for kind, _ in said)
        word = sent["candidates"][0]["finishReason"]
        expected = {"STOP": "tool_calls" if has_call else "stop", "MAX_TOKENS": "length"}[word]
        assert answer.finish_reason == expected, exchange["id"]
        seen += 1
    assert seen == 149


@pytest.mark.parametrize("step", [7, 100_000])
def test_every_stream(step):
    seen = 0
    for exchange in lines("gemini-generate.jsonl"):
        if not exchange["path"].endswith(":streamGenerateContent"):
            continue
        raw = exchange["response"]
        chunks = [json.loads(line[5:]) for line in raw.splitlines() if line.startswith("data:")]
        events, reader = read_stream(raw.encode(), step)
        assert reader.usage == expected_usage(chunks[-1]["usageMetadata"], queries(chunks)), exchange["id"]
        assert reader.provider_request_id == chunks[0]["responseId"]
        parts, finish = put_together(events)
        said = parts_of(chunks)
        check_parts(neutral(parts), said)
        assert finish == ("tool_calls" if any(kind == "call" for kind, _ in said) else "stop")
        seen += 1
    assert seen == 12


def test_every_embedding():
    embeddings = ADAPTER.dialect("gemini-embeddings")
    assert embeddings is not None
    exchanges = lines("gemini-embed.jsonl")
    assert len(exchanges) == 1
    for exchange in exchanges:
        response = WireResponse(exchange["status"], {}, json.dumps(exchange["response"]).encode())
        assert embeddings.decode(response).usage is None
        wire = embeddings.relay(exchange["request"], model="gemini-embedding-2-preview", stream=False, headers={})
        assert wire.path == exchange["path"]
        assert json.loads(wire.body) == exchange["request"]
