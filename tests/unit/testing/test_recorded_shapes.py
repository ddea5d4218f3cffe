"""The events of the fake's streams have no field that the vendors' recorded events have not."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.fake_calls import Answer, post
from tollhouse.testing import Behaviour, ToolCall

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "recorded"
TURNS = [{"role": "user", "content": "What is it?"}]
# What newer models report than those that were recorded.
NEWER = {".usage.prompt_tokens_details.cache_write_tokens", ".usage.output_tokens_details.thinking_tokens"}


def fields(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            # What a tool is called with is the caller's.
            if name not in {"args", "tools"}:
                yield f"{path}.{name}"
                yield from fields(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, path)


def fields_by_event(streams: list[Answer]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for stream in streams:
        for name, data in stream.events:
            found[name].update(fields(data))
    return found


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("anthropic-messages", "/v1/messages", {"model": "m", "max_tokens": 99, "messages": TURNS}),
        (
            "openai-chat",
            "/v1/chat/completions",
            {"model": "m", "messages": TURNS, "stream_options": {"include_usage": True}},
        ),
        ("openai-responses", "/v1/responses", {"model": "m", "input": "What is it?"}),
        (
            "gemini-generate",
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            {"contents": [{"parts": [{"text": "What is it?"}]}]},
        ),
    ],
)
def test_streamed_events_have_the_fields_that_were_recorded(fake, name, path, body):
    file = RECORDED / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    exchanges = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    recorded = fields_by_event(
        [Answer(200, {}, x["response"].encode()) for x in exchanges if "event-stream" in (x["content_type"] or "")]
    )
    fake.script([Behaviour(reasoning_tokens=3), Behaviour(tool_call=ToolCall("look", {"at": "it"}))])
    made = fields_by_event([post(fake, path, body | {"stream": True}) for _ in range(2)])
    assert made
    for event, names in made.items():
        assert names - NEWER <= recorded[event], event
