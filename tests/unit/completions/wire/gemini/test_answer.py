import json
from typing import Any

import pytest

from tollhouse import errors
from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.gemini.api import GeminiApi
from tollhouse.completions.wire.gemini.embeddings import GeminiEmbeddingsApi
from tollhouse.errors import InternalError, InvalidRequest, TollhouseError
from tollhouse.providers.base import WireResponse
from tollhouse.providers.conversation import (
    Finished,
    Message,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.gemini.foreign import own_signature, written_signature
from tollhouse.providers.sse import EventParser
from tollhouse.providers.usage import Usage

API = GeminiApi()
HEAD = AnswerHead(id="req-1", model="fast", created_s=1)
ADAPTER = GeminiAdapter(base_url="", api_key="")
EVERYTHING = Usage(
    input_tokens=1,
    cached_input_tokens=20,
    cache_write_tokens=300,
    cache_write_1h_tokens=4000,
    output_tokens=5,
    reasoning_tokens=60,
    audio_input_tokens=700,
    image_input_tokens=8000,
    audio_output_tokens=9,
    image_output_tokens=10,
    web_searches=3,
)


def written(answer: ProviderAnswer, usage: Usage = EVERYTHING) -> Any:
    return json.loads(API.answer(answer, usage, HEAD))


def streamed(*events: StreamEvent, usage: Usage = EVERYTHING) -> list[Any]:
    writer = API.stream_writer(API.read(b'{"contents":[]}', "m"), HEAD)
    raw = writer.begin() + b"".join(map(writer.write, events)) + writer.end(usage)
    parser = EventParser(1_000_000)
    chunks = [json.loads(event.data) for event in parser.feed(raw)]
    assert parser.rest() == b""
    return chunks


def test_an_answer_is_golden():
    assert written(ProviderAnswer("Hi", "stop", None), Usage(input_tokens=4, output_tokens=2)) == {
        "candidates": [
            {"content": {"parts": [{"text": "Hi"}], "role": "model"}, "index": 0, "finishReason": "STOP"},
        ],
        "modelVersion": "fast",
        "responseId": "req-1",
        "usageMetadata": {
            "promptTokenCount": 4,
            "candidatesTokenCount": 2,
            "totalTokenCount": 6,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        },
    }


def test_usage_is_counted_as_google_does():
    assert written(ProviderAnswer("", "stop", None))["usageMetadata"] == {
        "promptTokenCount": 13021,
        "cachedContentTokenCount": 20,
        "candidatesTokenCount": 24,
        "thoughtsTokenCount": 60,
        "totalTokenCount": 13105,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 4321},
            {"modality": "AUDIO", "tokenCount": 700},
            {"modality": "IMAGE", "tokenCount": 8000},
        ],
        "candidatesTokensDetails": [
            {"modality": "TEXT", "tokenCount": 5},
            {"modality": "AUDIO", "tokenCount": 9},
            {"modality": "IMAGE", "tokenCount": 10},
        ],
    }


PARTS = (
    Thinking("hm", signature="sig/+é"),
    Text("So:"),
    ToolCall("c1", "f", '{"a":[1.0]}'),
    ToolCall("c2", "g", "", signature="s2"),
    Thinking("", redacted="secret"),
)


def test_parts_are_written_in_order():
    answer = written(ProviderAnswer("So:", "tool_calls", None, parts=PARTS))
    candidate = answer["candidates"][0]
    assert candidate["finishReason"] == "STOP"
    thought, text, call, other, redacted = candidate["content"]["parts"]
    assert thought == {"thought": True, "text": "hm", "thoughtSignature": written_signature("sig/+é")}
    assert text == {"text": "So:"}
    assert call == {
        "functionCall": {"id": "c1", "name": "f", "args": {"a": [1.0]}},
        "thoughtSignature": written_signature(""),
    }
    assert other == {"functionCall": {"id": "c2", "name": "g", "args": {}}, "thoughtSignature": written_signature("s2")}
    assert redacted.keys() == {"thought", "thoughtSignature"}


def test_what_was_written_is_read_back_whole():
    content = written(ProviderAnswer("So:", "tool_calls", None, parts=PARTS))["candidates"][0]["content"]
    hello = {"role": "user", "parts": [{"text": "x"}]}
    asked = API.read(json.dumps({"contents": [hello, content]}).encode(), "m")
    assert API.translated(asked, 1).messages[1] == Message(
        "assistant", (*PARTS[:3], ToolCall("c2", "g", "{}", signature="s2"), PARTS[4])
    )


def test_what_was_streamed_is_read_back_whole():
    chunks = streamed(
        PartBegun(0, Thinking("")),
        PartGrew(0, "h"),
        PartGrew(0, "m"),
        PartGrew(0, "", "sig/+é"),
        PartEnded(0),
        PartBegun(1, Text("")),
        PartGrew(1, "So"),
        PartBegun(2, ToolCall("c1", "f", "")),
        PartBegun(3, ToolCall("c2", "g", "")),
        PartGrew(2, '{"a": '),
        PartGrew(1, ":"),
        PartEnded(1),
        PartGrew(3, "", "s2"),
        PartGrew(2, "[1.0]}"),
        PartEnded(2),
        PartEnded(3),
        PartBegun(4, Thinking("", redacted="secret")),
        PartEnded(4),
        Finished("tool_calls"),
    )
    contents = [{"role": "user", "parts": [{"text": "x"}]}, *(chunk["candidates"][0]["content"] for chunk in chunks)]
    asked = API.read(json.dumps({"contents": contents}).encode(), "m")
    assert API.translated(asked, 1).messages[1] == Message(
        "assistant", (*PARTS[:3], ToolCall("c2", "g", "{}", signature="s2"), PARTS[4])
    )
    assert all("usageMetadata" not in chunk for chunk in chunks[:-1])
    assert all(chunk["responseId"] == "req-1" and chunk["modelVersion"] == "fast" for chunk in chunks)
    assert chunks[-1]["candidates"] == [
        {"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0, "finishReason": "STOP"}
    ]
    assert chunks[-1]["usageMetadata"]["totalTokenCount"] == 13105


def test_googles_own_adapter_reads_what_is_written():
    parts = (Thinking("hm"), Text("So:"), ToolCall("c1", "f", '{"a":[1.0]}', written_signature("")))
    usage = Usage(
        input_tokens=1, cached_input_tokens=20, output_tokens=5, reasoning_tokens=60, audio_input_tokens=7,
        image_output_tokens=10,
    )  # fmt: skip
    body = API.answer(ProviderAnswer("So:", "tool_calls", None, parts=(Thinking("hm"), *PARTS[1:3])), usage, HEAD)
    assert ADAPTER.decode(WireResponse(200, {}, body)) == ProviderAnswer(
        "So:", "tool_calls", usage, "req-1", parts=parts
    )


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("stop", "STOP"),
        ("length", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
        ("tool_calls", "STOP"),
        ("refusal", "SAFETY"),
        ("other", "OTHER"),
    ],
)
def test_finish_reasons(reason, word):
    assert written(ProviderAnswer("", reason, None))["candidates"] == [
        {"content": {"role": "model"}, "index": 0, "finishReason": word}
    ]
    assert streamed(Finished(reason))[-1]["candidates"][0]["finishReason"] == word


@pytest.mark.parametrize("arguments", ['{"a":', "[]"])
def test_a_call_with_broken_arguments_is_told_in_googles_words(arguments):
    candidate = written(ProviderAnswer("a", "tool_calls", None, parts=(Text("a"), ToolCall("c", "f", arguments))))
    assert candidate["candidates"][0]["content"]["parts"] == [{"text": "a"}]
    assert candidate["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert candidate["candidates"][0]["finishMessage"] == f"Malformed function call: f({arguments})"
    last = streamed(PartBegun(0, ToolCall("c", "f", "")), PartGrew(0, arguments), PartEnded(0), Finished("tool_calls"))
    assert len(last) == 1
    assert last[0]["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"


@pytest.mark.parametrize("signature", ["R29vZ2xl", "", "?", "c2tpcA", "=", "dG9sbGhvdXNlOnNpZ25hdHVyZTr/"])
def test_a_signature_that_tollhouse_did_not_write_is_none(signature):
    assert own_signature(signature) is None


def test_a_signature_survives_the_alphabet_for_urls():
    signature = written_signature("é?>~ÿþ")
    assert own_signature(signature.replace("+", "-").replace("/", "_").rstrip("=")) == "é?>~ÿþ"


ERRORS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TollhouseError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_word_of_googles(kind):
    found = json.loads(API.error(kind("Why."), "req-1"))["error"]
    assert found["code"] == kind.status
    assert found["message"] == "Why."
    assert found["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": kind.code,
        "domain": "tollhouse",
    }
    assert found["details"][1]["requestId"] == "req-1"
    words = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
             402: "RESOURCE_EXHAUSTED", 422: "INVALID_ARGUMENT", 413: "INVALID_ARGUMENT", 431: "INVALID_ARGUMENT",
             405: "UNIMPLEMENTED", 408: "DEADLINE_EXCEEDED", 409: "ABORTED", 410: "OUT_OF_RANGE",
             429: "RESOURCE_EXHAUSTED",
             500: "INTERNAL", 502: "UNKNOWN", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
    assert found["status"] == words[kind.status]


@pytest.mark.parametrize(("seconds", "delay"), [(2.0, "2s"), (0.25, "0.25s"), (100.0, "100s"), (0.0, "0s")])
def test_when_to_come_back_is_told_as_google_does(seconds, delay):
    found = json.loads(API.error(errors.RateLimited("x", retry_after_s=seconds), "r"))["error"]["details"]
    assert found[2] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def test_a_stream_ends_with_an_error_as_a_chunk():
    raw = API.stream_error(errors.Unavailable("Later."), "req-1")
    assert raw == b"data: " + API.error(errors.Unavailable("Later."), "req-1") + b"\n\n"


EMBEDDINGS = GeminiEmbeddingsApi()


@pytest.mark.parametrize("body", [{"content": {"parts": []}}, {"requests": [{"content": {}}, {"content": {}}]}])
def test_embeddings_are_read_and_relayed(body):
    asked = EMBEDDINGS.read(json.dumps(body).encode(), "models/e-1")
    assert (asked.model, asked.max_tokens, asked.is_stream, asked.body) == ("e-1", 0, False, body)
    assert EMBEDDINGS.limited(asked, 9) == body
    with pytest.raises(InvalidRequest, match=r"^model: embeddings in Google's format"):
        EMBEDDINGS.translated(asked, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"{}", "content: expected either content or requests"),
        (b'{"content":{},"requests":[]}', "content: expected either content or requests"),
        (b'{"content":"x"}', "content: expected an object"),
        (b'{"requests":[]}', "requests: expected a list of 1 to 100"),
        (b'{"requests":{}}', "requests: expected a list of 1 to 100"),
        (b'{"requests":[3]}', "requests[0]: expected an object"),
        (b'{"requests":[{}]}', "requests[0].content: is required"),
    ],
)
def test_embeddings_that_cannot_be_read_are_told_by_field(body, message):
    with pytest.raises(InvalidRequest) as refused:
        EMBEDDINGS.read(body, "m")
    assert refused.value.message.startswith(message)


def test_embeddings_are_never_written():
    asked = EMBEDDINGS.read(b'{"content":{}}', "m")
    assert EMBEDDINGS.error(errors.NotFound("x"), "r") == API.error(errors.NotFound("x"), "r")
    for attempt in (
        lambda: EMBEDDINGS.answer(ProviderAnswer("", "stop", None), Usage(), HEAD),
        lambda: EMBEDDINGS.stream_writer(asked, HEAD),
        lambda: EMBEDDINGS.stream_error(errors.NotFound("x"), "r"),
    ):
        with pytest.raises(InternalError):
            attempt()
