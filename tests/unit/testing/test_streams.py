import gzip
import json
from typing import Any

import pytest

from harness.fake_calls import Answer, post
from tollhouse.testing import Behaviour, FakeProvider, ToolCall

# What is sent is 12 bytes of prompt: 3 tokens.
TEXT = "What is it? "
TURNS = [{"role": "user", "content": TEXT}]
CHAT = {"model": "m", "messages": TURNS, "stream": True}
RESPONSES = {"model": "m", "input": TEXT, "stream": True, "max_output_tokens": 100}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/v1/messages", {"model": "m", "messages": TURNS, "max_tokens": 100, "stream": True}),
    "chat": ("/v1/chat/completions", CHAT | {"stream_options": {"include_usage": True}}),
    "deepseek": ("/chat/completions", CHAT),
    "responses": ("/v1/responses", RESPONSES),
    "deepseek-responses": ("/responses", RESPONSES),
    "gemini": ("/v1beta/models/m:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": TEXT}]}]}),
}
# Events before the first word and after the last; Google's last word comes with the end.
AROUND = {
    "messages": (3, 3), "chat": (1, 3), "deepseek": (1, 2), "responses": (4, 4), "deepseek-responses": (4, 4),
    "gemini": (0, 0),
}  # fmt: skip
everywhere = pytest.mark.parametrize("api", CALLS)


def stream(fake: FakeProvider, api: str, **fields: Any) -> Answer:
    path, body = CALLS[api]
    return post(fake, path, body | fields, timeout_s=5)


def text_of(api: str, events: list[Any]) -> str:
    """Return the pieces of the answer's text, joined by bars."""
    pieces: list[str] = []
    for event in events:
        match api, event:
            case "messages", {"delta": {"text": str(text)}}:
                pieces.append(text)
            case "chat" | "deepseek", {"choices": [{"delta": {"content": str(text)}}]}:
                pieces.append(text)
            case "responses" | "deepseek-responses", {"type": "response.output_text.delta", "delta": text}:
                pieces.append(text)
            case "gemini", {"candidates": [{"content": {"parts": [{"text": text}]}}]}:
                pieces.append(text)
    return "|".join(piece for piece in pieces if piece)


def test_messages_are_streamed_as_anthropic_does(fake):
    fake.behave(
        Behaviour(
            content="Two words",
            cached_input_tokens=20,
            cache_write_tokens=4,
            cache_write_1h_tokens=5,
            reasoning_tokens=7,
        )
    )
    answer = stream(fake, "messages")
    (receipt,) = fake.receipts()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["request-id"] == receipt.id
    assert [name for name, _ in answer.events] == [event["type"] for event in answer.data]
    inputs = {"input_tokens": 3, "cache_creation_input_tokens": 9, "cache_read_input_tokens": 20}
    created = {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}
    message = {
        "id": receipt.id,
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": inputs | {"cache_creation": created, "output_tokens": 1, "service_tier": "standard"},
    }
    usage = inputs | {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 7}}
    assert answer.data == [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Two"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " words"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    assert receipt.total_tokens == 3 + 20 + 4 + 5 + 2 + 7


def chunk(answer_id: str, delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "m",
        "system_fingerprint": None,
        "choices": [choice],
        **fields,
    }


@pytest.mark.parametrize("includes_usage", [True, False])
def test_chat_is_streamed_as_openai_does_with_the_usage_only_if_asked(fake, includes_usage):
    fake.behave(Behaviour(content="Two words", reasoning_tokens=7))
    answer = stream(fake, "chat", stream_options={"include_usage": includes_usage})
    (receipt,) = fake.receipts()
    assert answer.headers["x-request-id"] == receipt.id
    null = {"usage": None} if includes_usage else {}
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 9,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 0},
    }
    last = chunk(receipt.id, {}, usage=usage) | {"choices": []}
    assert answer.data == [
        chunk(receipt.id, {"role": "assistant", "content": "", "refusal": None}, **null),
        chunk(receipt.id, {"content": "Two"}, **null),
        chunk(receipt.id, {"content": " words"}, **null),
        chunk(receipt.id, {}, "stop", **null),
        *([last] if includes_usage else []),
        "[DONE]",
    ]
    assert receipt.total_tokens == 12


def test_deepseek_reports_the_usage_with_its_last_choice(fake):
    fake.behave(Behaviour(content="Two words", cached_input_tokens=5))
    answer = stream(fake, "deepseek")
    *_, last, done = answer.data
    assert done == "[DONE]"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (last["usage"]["prompt_cache_hit_tokens"], last["usage"]["prompt_cache_miss_tokens"]) == (5, 3)
    assert last["usage"]["total_tokens"] == 10


def test_responses_are_streamed_as_openai_does(fake):
    fake.behave(Behaviour(content="Two words", cached_input_tokens=20, cache_write_tokens=4, reasoning_tokens=7))
    answer = stream(fake, "responses", instructions="Be brief", tools=[{"type": "function", "name": "f"}])
    (receipt,) = fake.receipts()
    assert [name for name, _ in answer.events] == [event["type"] for event in answer.data]
    assert [event["sequence_number"] for event in answer.data] == list(range(10))
    created, in_progress, added, part, *deltas, done, part_done, item_done, completed = answer.data
    begun = created["response"]
    assert created["type"] == "response.created"
    assert (begun["id"], begun["status"], begun["output"], begun["usage"]) == (receipt.id, "in_progress", [], None)
    assert (begun["instructions"], begun["tools"]) == ("Be brief", [{"type": "function", "name": "f"}])
    assert in_progress == created | {"type": "response.in_progress", "sequence_number": 1}
    own_id = f"msg_{receipt.id}"
    item = {"id": own_id, "type": "message", "status": "in_progress", "content": [], "role": "assistant"}
    assert added["item"] == item
    place = {"content_index": 0, "item_id": own_id, "output_index": 0}
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Two words"}
    assert part == place | {
        "type": "response.content_part.added",
        "part": text | {"text": ""},
        "sequence_number": 3,
    }
    of_words = {"type": "response.output_text.delta", "logprobs": []} | place
    assert deltas == [
        of_words | {"delta": "Two", "sequence_number": 4},
        of_words | {"delta": " words", "sequence_number": 5},
    ]
    assert (done["type"], done["text"], part_done["part"]) == ("response.output_text.done", "Two words", text)
    whole = item | {"status": "completed", "content": [text]}
    assert (item_done["item"], completed["response"]["output"]) == (whole, [whole])
    assert completed["type"] == "response.completed"
    assert completed["response"]["status"] == "completed"
    assert completed["response"]["usage"] == {
        "input_tokens": 13 + 20 + 4,
        "input_tokens_details": {"cache_write_tokens": 4, "cached_tokens": 20},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 46,
    }
    # 12 bytes of input, 8 of instructions, 30 of tools.
    assert (receipt.input_tokens, receipt.total_tokens) == (13, 46)


def test_gemini_streams_as_google_does_and_counts_as_it_goes(fake):
    fake.behave(Behaviour(content="Three words. é", cached_input_tokens=5, reasoning_tokens=7))
    answer = stream(fake, "gemini")
    (receipt,) = fake.receipts()
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"\r\n\r\n") == 3
    counts = {"promptTokenCount": 8, "cachedContentTokenCount": 5, "thoughtsTokenCount": 7}

    def event(text: str, output: int, **ending: str) -> dict[str, Any]:
        return {
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0} | ending],
            "usageMetadata": counts | {"candidatesTokenCount": output, "totalTokenCount": 15 + output},
            "modelVersion": "m",
            "responseId": receipt.id,
        }

    assert answer.data == [event("Three", 1), event(" words.", 2), event(" é", 3, finishReason="STOP")]
    assert receipt.total_tokens == 18


def test_gemini_without_events_is_refused(fake):
    answer = post(fake, "/v1beta/models/m:streamGenerateContent", CALLS["gemini"][1])
    assert answer.status == 400
    assert "alt=sse" in answer.json["error"]["message"]
    assert not fake.receipts()[0].billed


@everywhere
@pytest.mark.parametrize("content", ["one", "a b\n\n c ", "  ", "", '"quoted" %b <word> \u2028é'])
def test_the_words_of_a_stream_are_the_content_one_an_event(fake, api, content):
    fake.behave(Behaviour(content=content))
    answer = stream(fake, api)
    pieces = text_of(api, answer.data)
    assert pieces.replace("|", "") == content
    assert len([piece for piece in pieces.split("|") if piece]) == max(len(content.split()), bool(content))
    assert fake.receipts()[0].output_tokens == len(content.split())
    assert fake.receipts()[0].streamed_events == len(answer.data)


@everywhere
def test_a_stream_ends_at_max_tokens(fake, api):
    limits = {"max_tokens": 2, "max_output_tokens": 2, "generationConfig": {"maxOutputTokens": 2}}
    fake.behave(Behaviour(content="Three more words"))
    answer = stream(fake, api, **limits)
    assert text_of(api, answer.data) == "Three| more"
    reasons = {
        "messages": '"max_tokens"',
        "chat": '"length"',
        "deepseek": '"length"',
        "gemini": '"MAX_TOKENS"',
    }
    assert reasons.get(api, '"response.incomplete"') in json.dumps(answer.data)


@everywhere
def test_a_tool_is_called_in_pieces(fake, api):
    fake.behave(Behaviour(tool_call=ToolCall("look", {"at": "Ä b"})))
    events = stream(fake, api).data
    (receipt,) = fake.receipts()
    match api:
        case "messages":
            start, *deltas = events[1], *(e["delta"] for e in events if e["type"] == "content_block_delta")
            block = {"type": "tool_use", "id": f"toolu_{receipt.id}", "name": "look", "input": {}}
            assert start["content_block"] == block
            assert {delta["type"] for delta in deltas} == {"input_json_delta"}
            pieces = [delta["partial_json"] for delta in deltas][1:]
            assert events[-2]["delta"]["stop_reason"] == "tool_use"
        case "chat" | "deepseek":
            deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
            first = {"index": 0, "id": f"call_{receipt.id}", "type": "function"}
            assert deltas[0]["tool_calls"] == [first | {"function": {"name": "look", "arguments": ""}}]
            pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas[1:-1]]
            reasons = [event["choices"][0]["finish_reason"] for event in events[:-1] if event["choices"]]
            assert reasons[-1] == "tool_calls"
        case "responses" | "deepseek-responses":
            pieces = [e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"]
            (item,) = events[-1]["response"]["output"]
            assert item == events[-2]["item"]
            assert (item["call_id"], item["name"]) == (f"call_{receipt.id}", "look")
            assert item["arguments"] == events[-3]["arguments"] == '{"at":"Ä b"}'
            assert events[-1]["response"]["status"] == "completed"
        case _:
            (candidate,) = events[0]["candidates"]
            assert candidate["content"]["parts"] == [{"functionCall": {"name": "look", "args": {"at": "Ä b"}}}]
            assert candidate["finishReason"] == "STOP"
            pieces = ['{"', "at", '":"', "Ä", " ", "b", '"}']
    assert pieces == ['{"', "at", '":"', "Ä", " ", "b", '"}']
    assert receipt.output_tokens == 8


@everywhere
@pytest.mark.parametrize("usage", ["omitted", "zero", "malformed"])
def test_usage_is_streamed_as_told(fake, api, usage):
    fake.behave(Behaviour(content="Two words", usage=usage))
    answer = stream(fake, api)
    assert text_of(api, answer.data) == "Two| words"
    reported = [found for event in answer.data for found in usages(event)]
    counts = [value for found in reported for key, value in found.items() if "okens" in key or "TokenCount" in key]
    if usage == "omitted":
        assert counts == []
    elif usage == "zero":
        assert {count for count in counts if isinstance(count, int)} == {0}
    else:
        assert set(counts) == {-7, "many"}
    assert fake.receipts()[0].total_tokens == (0 if usage == "zero" else 5)


def usages(event: Any) -> list[dict[str, Any]]:
    """Return all usages within an event."""
    if not isinstance(event, dict):
        return []
    here = [event[key] for key in ("usage", "usageMetadata") if event.get(key) is not None]
    return here + [found for value in event.values() for found in usages(value)]


@everywhere
def test_garbage_is_one_event_of_a_stream(fake, api):
    fake.behave(Behaviour(content="Two words", garbage=True))
    answer = stream(fake, api)
    garbage = [index for index, data in enumerate(answer.data) if data == "<html><body>It works!</body></html>"]
    assert garbage == [1]
    assert text_of(api, answer.data) == "Two| words"


@everywhere
def test_an_error_after_so_many_events_has_the_vendors_shape(fake, api):
    fake.behave(Behaviour(content="Two words", error_after_events=1, reason="No more."))
    answer = stream(fake, api)
    error = {
        "messages": {
            "type": "error",
            "error": {"type": "overloaded_error", "message": "No more."},
            "request_id": "fake",
        },
        "gemini": {"error": {"code": 503, "message": "No more.", "status": "UNAVAILABLE"}},
        "responses": {
            "type": "error",
            "code": "server_error",
            "message": "No more.",
            "param": None,
            "sequence_number": 1,
        },
        "chat": {"error": {"message": "No more.", "type": "server_error", "param": None, "code": None}},
    }
    expected = error[{"deepseek": "chat", "deepseek-responses": "responses"}.get(api, api)]
    assert answer.data[1:] == [expected]
    assert answer.error is None
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.total_tokens, receipt.streamed_events) == (200, True, 5, 2)


def test_an_error_that_comes_first_is_not_billed(fake):
    fake.behave(Behaviour(error_after_events=0))
    assert [event["type"] for event in stream(fake, "messages").data] == ["error"]
    assert (fake.receipts()[0].billed, fake.receipts()[0].total_tokens) == (False, 0)


@pytest.mark.parametrize("status", [400, 429, 529])
def test_an_error_status_comes_instead_of_a_stream(fake, status):
    fake.behave(Behaviour(status=status, error_after_events=3))
    answer = stream(fake, "messages")
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json["type"] == "error"
    assert (fake.receipts()[0].billed, fake.receipts()[0].streamed_events) == (False, None)


def test_a_stream_is_compressed_when_told(fake):
    fake.behave(Behaviour(content="Two words", gzip=True))
    answer = stream(fake, "gemini")
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body).count(b"data: ") == 2


@everywhere
def test_whatever_comes_around_the_words_is_as_many_events_as_ever(fake, api):
    before, after = AROUND[api]
    for words in (1, 5):
        fake.reset()
        fake.behave(Behaviour(content=" ".join(["word"] * words)))
        assert len(stream(fake, api).data) == before + words + after
