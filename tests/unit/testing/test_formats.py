import base64
import math
import struct
from typing import Any

import pytest

from harness.fake_calls import post
from tollhouse.testing import Behaviour, FakeProvider, ToolCall

IMAGE = base64.b64encode(b"x" * 3000).decode()
TURNS = [{"role": "user", "content": "What is it?"}]
# In a list 30 bytes, as compactly as it can be written.
TOOL = {"name": "f", "parameters": {}}


def prompt_bytes(fake: FakeProvider, path: str, body: Any) -> int:
    fake.behave(Behaviour(bytes_per_token=1))
    answer = post(fake, path, body)
    assert answer.status == 200, answer.body
    return fake.receipts()[-1].input_tokens


# What is to be counted is "<one>", of 5 bytes, and what is said besides.
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "<one>"}, {"type": "text", "text": "é"}], 7),
        ([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}], 0),
        ([{"type": "image", "source": {"type": "url", "url": "https://x.test/"}}], 0),
        ([{"type": "document", "title": "<one>", "source": {"type": "base64", "data": IMAGE}}], 5),
        ([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "<one>"}}], 5),
        ([{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "<one>"}]}}], 5),
        ([{"type": "thinking", "thinking": "<one>", "signature": "c2ln"}], 5),
        ([{"type": "redacted_thinking", "data": IMAGE}], 0),
        ([{"type": "tool_use", "id": "toolu_1", "name": "<one>", "input": {"a": 1}}], 5 + 7),
        ([{"type": "tool_result", "tool_use_id": "toolu_1", "content": "<one>"}], 5),
        ([{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "<one>"}]}], 5),
        ([{"type": "text", "text": "<one>", "cache_control": {"type": "ephemeral", "ttl": "1h"}}], 5),
    ],
)
def test_of_anthropics_parts_texts_are_counted(fake, content, expected):
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    assert prompt_bytes(fake, "/v1/messages", body) == expected
    assert prompt_bytes(fake, "/v1/messages", body | {"system": content}) == 2 * expected


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"content": [{"type": "text", "text": "<one>"}, {"type": "text", "text": "é"}]}, 7),
        ({"content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}]}, 0),
        ({"content": [{"type": "input_audio", "input_audio": {"data": IMAGE, "format": "wav"}}]}, 0),
        ({"content": [{"type": "file", "file": {"file_data": IMAGE, "filename": "a.pdf"}}]}, 0),
        ({"content": None, "refusal": "<one>"}, 5),
        ({"content": "<one>", "reasoning_content": "<two>", "name": "me"}, 12),
        ({"content": "<one>", "tool_call_id": "call_1"}, 5),
        (
            {
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "<one>", "arguments": '{"a":1}'}}
                ]
            },
            5 + 7,
        ),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_of_openais_parts_texts_are_counted(fake, path, turn, expected):
    body = {"model": "m", "messages": [{"role": "user"} | turn]}
    assert prompt_bytes(fake, path, body) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("<one>", 5),
        ([{"role": "user", "content": "<one>"}], 5),
        ([{"role": "user", "content": [{"type": "input_text", "text": "<one>"}]}], 5),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}"}]}], 0),
        ([{"role": "user", "content": [{"type": "input_file", "file_data": IMAGE, "filename": "a.pdf"}]}], 0),
        ([{"type": "function_call", "call_id": "call_1", "name": "<one>", "arguments": "{}"}], 7),
        ([{"type": "function_call_output", "call_id": "call_1", "output": "<one>"}], 5),
        ([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "<one>"}]}], 5),
        ([{"type": "custom_tool_call", "call_id": "call_1", "name": "<one>", "input": "<two>"}], 10),
        ([{"type": "reasoning", "summary": [{"text": "<one>"}], "encrypted_content": IMAGE}], 5),
    ],
)
def test_of_the_items_of_responses_texts_are_counted(fake, given, expected):
    assert prompt_bytes(fake, "/v1/responses", {"model": "m", "input": given}) == expected
    body = {"model": "m", "input": given, "instructions": "<two>"}
    assert prompt_bytes(fake, "/responses", body) == expected + 5


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"text": "<one>"}, 5),
        ({"text": "<one>", "thought": True, "thoughtSignature": IMAGE}, 5),
        ({"inlineData": {"mimeType": "image/png", "data": IMAGE}}, 0),
        ({"fileData": {"fileUri": "https://x.test/"}}, 0),
        ({"functionCall": {"name": "<one>", "args": {"a": 1}}}, 5 + 7),
        ({"functionResponse": {"name": "<one>", "response": {"a": 1}}}, 5 + 7),
        ({"executableCode": {"language": "PYTHON", "code": "<one>"}}, 5),
    ],
)
def test_of_googles_parts_texts_are_counted(fake, part, expected):
    body = {"contents": [{"parts": [part, {"text": "é"}]}], "systemInstruction": {"parts": [part]}}
    assert prompt_bytes(fake, "/v1beta/models/m:generateContent", body) == 2 * expected + 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": TURNS}),
        ("/v1/chat/completions", {"model": "m", "messages": TURNS}),
        ("/chat/completions", {"model": "m", "messages": TURNS}),
        ("/v1/responses", {"model": "m", "input": "What is it?"}),
        ("/responses", {"model": "m", "input": "What is it?"}),
        ("/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": "What is it?"}]}]}),
        ("/v1/models/m:generateContent", {"contents": [{"parts": [{"text": "What is it?"}]}]}),
    ],
)
def test_definitions_of_tools_are_counted(fake, path, body):
    assert prompt_bytes(fake, path, body) == 11
    assert prompt_bytes(fake, path, body | {"tools": []}) == 11
    assert prompt_bytes(fake, path, body | {"tools": [TOOL]}) == 11 + 30


def test_what_is_nested_too_deep_is_refused(fake):
    content: Any = "deep"
    for _ in range(400):
        content = [{"content": content}]
    answer = post(fake, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": content}]})
    assert answer.status == 400
    assert not fake.receipts()[0].billed


CALLED = Behaviour(tool_call=ToolCall("look", {"at": "Ä b"}), content="Not said.")


def test_a_tool_is_called_by_anthropic(fake):
    fake.behave(CALLED)
    answer = post(fake, "/v1/messages", {"model": "m", "max_tokens": 99, "messages": TURNS}).json
    (receipt,) = fake.receipts()
    assert answer["content"] == [
        {"type": "tool_use", "id": f"toolu_{receipt.id}", "name": "look", "input": {"at": "Ä b"}}
    ]
    assert (answer["stop_reason"], answer["usage"]["output_tokens"], receipt.output_tokens) == ("tool_use", 8, 8)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_tool_is_called_in_chat(fake, path):
    fake.behave(CALLED)
    (choice,) = post(fake, path, {"model": "m", "messages": TURNS}).json["choices"]
    function = {"name": "look", "arguments": '{"at":"Ä b"}'}
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": f"call_{fake.receipts()[0].id}", "type": "function", "function": function}
    ]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_a_tool_is_called_in_responses(fake, path):
    fake.behave(CALLED)
    answer = post(fake, path, {"model": "m", "input": "What is it?"}).json
    own_id = fake.receipts()[0].id
    assert answer["output"] == [
        {
            "id": f"fc_{own_id}",
            "type": "function_call",
            "status": "completed",
            "arguments": '{"at":"Ä b"}',
            "call_id": f"call_{own_id}",
            "name": "look",
        }
    ]
    assert (answer["status"], answer["usage"]["output_tokens"]) == ("completed", 8)


def test_a_tool_is_called_by_google(fake):
    fake.behave(CALLED)
    answer = post(fake, "/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": "hi"}]}]}).json
    (candidate,) = answer["candidates"]
    assert candidate["content"]["parts"] == [{"functionCall": {"name": "look", "args": {"at": "Ä b"}}}]
    assert candidate["finishReason"] == "STOP"


def test_a_call_of_a_tool_costs_what_it_is_told_and_no_more_than_the_limit(fake):
    fake.behave(Behaviour(tool_call=ToolCall("look"), output_tokens=50))
    body = {"model": "m", "messages": TURNS}
    for limit in (100, 20):
        answer = post(fake, "/v1/chat/completions", body | {"max_tokens": limit}).json
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert [receipt.output_tokens for receipt in fake.receipts()] == [50, 20]


def test_a_response_is_whole_as_openais_are(fake):
    fake.behave(Behaviour(content="Two words", cached_input_tokens=20, cache_write_1h_tokens=4, reasoning_tokens=7))
    answer = post(fake, "/v1/responses", {"model": "m", "input": "What is it?", "tool_choice": "none"})
    (receipt,) = fake.receipts()
    body = answer.json
    assert answer.headers["x-request-id"] == body["id"] == receipt.id
    assert (body["object"], body["status"], body["error"], body["model"]) == ("response", "completed", None, "m")
    assert (body["tools"], body["tool_choice"], body["incomplete_details"]) == ([], "none", None)
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Two words"}
    assert body["output"] == [
        {
            "id": f"msg_{receipt.id}",
            "type": "message",
            "status": "completed",
            "content": [text],
            "role": "assistant",
        }
    ]
    assert body["usage"]["input_tokens"] == 3 + 20 + 4
    assert (receipt.cache_write_tokens, receipt.cache_write_1h_tokens, receipt.total_tokens) == (4, 0, 36)
    assert (receipt.format, receipt.path) == ("openai", "/v1/responses")


def test_a_response_is_incomplete_at_its_limit(fake):
    fake.behave(Behaviour(content="Three more words"))
    body = post(fake, "/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 2}).json
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["output"][0]["content"][0]["text"], body["output"][0]["status"]) == ("Three more", "incomplete")


def test_deepseeks_responses_know_no_cache_writes(fake):
    fake.behave(Behaviour(cached_input_tokens=20, cache_write_tokens=4))
    body = post(fake, "/responses", {"model": "m", "input": "What is it?"}).json
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 20}
    assert (fake.receipts()[0].format, fake.receipts()[0].input_tokens) == ("deepseek", 7)


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "input": 3}, {"input": "hi"}])
def test_what_is_no_response_is_refused(fake, body):
    answer = post(fake, "/v1/responses", body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("given", "tokens", "count"),
    [("Hello, you", 3, 1), (["Hello", "you"], 2, 2), ([5, 6, 7], 3, 1), ([[5, 6], [7]], 3, 2), (["é"], 1, 1)],
)
def test_embeddings_are_of_texts_or_tokens(fake, given, tokens, count):
    answer = post(fake, "/v1/embeddings", {"model": "e", "input": given})
    body = answer.json
    assert (body["object"], body["model"]) == ("list", "e")
    assert [each["index"] for each in body["data"]] == list(range(count))
    for each in body["data"]:
        assert (each["object"], len(each["embedding"])) == ("embedding", 8)
        assert math.hypot(*each["embedding"]) == pytest.approx(1, abs=1e-6)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    (receipt,) = fake.receipts()
    assert (receipt.billed, receipt.input_tokens, receipt.total_tokens) == (True, tokens, tokens)


def test_embeddings_depend_on_the_text_alone_and_are_the_same_in_base64(fake):
    def embeddings(given: list[str], **fields: Any) -> list[Any]:
        data = post(fake, "/v1/embeddings", {"model": "e", "input": given} | fields).json["data"]
        return [each["embedding"] for each in data]

    one, other = embeddings(["one", "other"])
    assert one != other
    assert embeddings(["other"]) == [other]
    (encoded,) = embeddings(["one"], encoding_format="base64")
    assert list(struct.unpack("<8f", base64.b64decode(encoded))) == one
    assert len(embeddings(["one"], dimensions=3)[0]) == 3


def test_embeddings_cost_input_and_nothing_else(fake):
    fake.behave(
        Behaviour(input_tokens=10, cached_input_tokens=4, cache_write_tokens=2, output_tokens=9, reasoning_tokens=7)
    )
    for path, body in (
        ("/v1/embeddings", {"model": "e", "input": "hi"}),
        ("/v1beta/models/e:embedContent", {"content": {"parts": [{"text": "hi"}]}}),
    ):
        post(fake, path, body)
        assert (fake.receipts()[-1].input_tokens, fake.receipts()[-1].total_tokens) == (16, 16)


@pytest.mark.parametrize("given", ["", [], [""], [[]], [3, "a"], [None], {"a": 1}, ["a"] * 2049])
def test_what_cannot_be_embedded_is_refused(fake, given):
    assert post(fake, "/v1/embeddings", {"model": "e", "input": given}).status == 400
    assert not fake.receipts()[0].billed


@pytest.mark.parametrize(
    ("usage", "openai", "gemini"),
    [
        ("omitted", None, None),
        ("zero", {"prompt_tokens": 0, "total_tokens": 0}, {"promptTokenCount": 0}),
        ("malformed", {"prompt_tokens": -7, "total_tokens": "many"}, {"promptTokenCount": -7}),
    ],
)
def test_usage_of_embeddings_is_reported_as_told(fake, usage, openai, gemini):
    fake.behave(Behaviour(usage=usage))
    assert post(fake, "/v1/embeddings", {"model": "e", "input": "hi"}).json.get("usage") == openai
    body = {"content": {"parts": [{"text": "hi"}]}}
    assert post(fake, "/v1beta/models/e:embedContent", body).json.get("usageMetadata") == gemini


def test_google_embeds_one_text_or_many(fake):
    hello, you = ({"content": {"parts": [{"text": text}]}} for text in ("Hello, you", "you"))
    one = post(fake, "/v1beta/models/e:embedContent", hello).json
    assert len(one["embedding"]["values"]) == 8
    assert one["usageMetadata"] == {"promptTokenCount": 3}
    short = you | {"model": "models/e", "outputDimensionality": 4}
    many = post(fake, "/v1beta/models/e:batchEmbedContents", {"requests": [hello, short]}).json
    assert many["embeddings"][0] == one["embedding"]
    assert len(many["embeddings"][1]["values"]) == 4
    assert [(r.model, r.input_tokens, r.output_tokens) for r in fake.receipts()] == [("e", 3, 0), ("e", 4, 0)]


def test_anthropic_counts_tokens_for_nothing(fake):
    body = {"model": "m", "messages": TURNS, "system": "Be brief.", "tools": [TOOL]}
    answer = post(fake, "/v1/messages/count_tokens", body)
    # 11 bytes, 9 bytes and 30 bytes.
    assert answer.json == {"input_tokens": 13}
    assert answer.headers["request-id"] == fake.receipts()[0].id
    fake.behave(Behaviour(input_tokens=100, cached_input_tokens=20, cache_write_tokens=3))
    assert post(fake, "/v1/messages/count_tokens", body).json == {"input_tokens": 123}
    fake.behave(Behaviour(status=529))
    assert post(fake, "/v1/messages/count_tokens", body).json["error"]["type"] == "overloaded_error"
    assert [(receipt.billed, receipt.total_tokens) for receipt in fake.receipts()] == [(False, 0)] * 3
