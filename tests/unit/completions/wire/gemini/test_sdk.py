"""Google's own SDK, unchanged, against what Tollhouse reads and writes; nothing leaves the process."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.completions.wire.gemini.api import GeminiApi
from tollhouse.completions.wire.gemini.embeddings import GeminiEmbeddingsApi
from tollhouse.errors import RateLimited, Unavailable
from tollhouse.providers.conversation import (
    Finished,
    Media,
    Message,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    ProviderRequest,
    Reasoning,
    StreamEvent,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.usage import Usage

with warnings.catch_warnings():
    # The SDK's own source is compiled with a warning where no bytecode of it is kept yet.
    warnings.simplefilter("ignore")
    from google import genai
    from google.genai import errors as google_errors
    from google.genai import types

API = GeminiApi()
HEAD = AnswerHead(id="req-1", model="claude", created_s=1)
USAGE = Usage(input_tokens=10, cached_input_tokens=5, output_tokens=3, reasoning_tokens=2, image_input_tokens=4)


class Service:
    """Answers the SDK: reads its request, keeps the translation, and sends back what is written next."""

    def __init__(self) -> None:
        self.requests: list[ProviderRequest] = []
        self.answers: list[Callable[[Asked], tuple[int, bytes]]] = []
        transport = httpx.Client(transport=httpx.MockTransport(self._handle))
        options = types.HttpOptions(base_url="http://tollhouse.test", httpx_client=transport)
        self.client = genai.Client(api_key="k", http_options=options)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        # The SDK's version of the API is v1, unless it is told otherwise; curl examples say v1beta.
        resource, _, method = request.url.path.removeprefix("/v1/").partition(":")
        is_stream = method == "streamGenerateContent"
        assert is_stream == (request.url.params.get("alt") == "sse")
        asked = API.read(request.content, resource, is_stream=is_stream)
        self.requests.append(API.translated(asked, asked.max_tokens or 100))
        status, body = self.answers.pop(0)(asked)
        kind = "text/event-stream" if is_stream and status == 200 else "application/json"
        return httpx.Response(status, content=body, headers={"content-type": kind})

    def answer(self, *parts: Text | ToolCall | Thinking, finish: Any = "stop") -> None:
        text = "".join(part.text for part in parts if isinstance(part, Text))
        body = API.answer(ProviderAnswer(text, finish, None, parts=parts), USAGE, HEAD)
        self.answers.append(lambda _: (200, body))

    def stream(self, *events: StreamEvent, after: bytes | None = None) -> None:
        def sent(asked: Asked) -> tuple[int, bytes]:
            writer = API.stream_writer(asked, HEAD)
            body = writer.begin() + b"".join(map(writer.write, events))
            return 200, body + (writer.end(USAGE) if after is None else after)

        self.answers.append(sent)


@pytest.fixture
def service() -> Service:
    return Service()


def test_an_answer_is_what_the_sdk_makes_of_it(service):
    service.answer(Thinking("hm", signature="sig"), Text("Hello"))
    answer = service.client.models.generate_content(model="claude", contents="Hi")
    assert service.requests == [
        ProviderRequest(model="claude", messages=(Message("user", (Text("Hi"),)),), max_tokens=100)
    ]
    assert answer.text == "Hello"
    assert answer.model_version == "claude"
    assert answer.response_id == "req-1"
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert answer.candidates[0].content.parts[0].thought
    usage = answer.usage_metadata
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (19, 5)
    assert (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count) == (3, 2, 24)
    assert [(each.modality, each.token_count) for each in usage.prompt_tokens_details] == [
        (types.MediaModality.TEXT, 15),
        (types.MediaModality.IMAGE, 4),
    ]


def test_what_the_sdk_sends_is_translated_in_full(service):
    def weather(city: str, days: int = 1) -> str:
        """Tell the weather."""
        return f"{city} {days}"

    service.answer(Text('{"a":1}'))
    service.client.models.generate_content(
        model="claude",
        contents=["Look", types.Part.from_bytes(data=b"\xfb\xff", mime_type="image/png")],
        config=types.GenerateContentConfig(
            system_instruction="Be brief.",
            max_output_tokens=50,
            temperature=0.5,
            top_p=0.9,
            top_k=3,
            seed=4,
            stop_sequences=["X"],
            response_mime_type="application/json",
            response_schema={"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}},
            tools=[weather],
            tool_config=types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
            ),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW),
            safety_settings=[
                types.SafetySetting(
                    category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.OFF
                )
            ],
        ),
    )
    (request,) = service.requests
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", (Text("Look"), Media("image", "image/png", base64="+/8="))),
    )
    assert (request.max_tokens, request.temperature, request.top_p, request.top_k) == (50, 0.5, 0.9, 3)
    assert (request.seed, request.stop, request.reasoning) == (4, ("X",), Reasoning(effort="low"))
    assert request.response_schema == {"type": "object", "properties": {"a": {"type": "integer"}}}
    (tool,) = request.tools
    assert (tool.name, tool.description) == ("weather", "Tell the weather.")
    assert tool.parameters is not None
    assert tool.parameters["type"] == "object"
    assert tool.parameters["properties"]["city"]["type"] == "string"
    assert tool.parameters["required"] == ["city"]
    assert request.tool_choice == ToolChoice("required")


def test_the_sdk_calls_functions_by_itself(service):
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    service.answer(
        Thinking("let me", signature="sig/+"), ToolCall("toolu_1", "add", '{"a":1,"b":2}'), finish="tool_calls"
    )
    service.answer(Text("Three."))
    answer = service.client.models.generate_content(
        model="claude", contents="1+2?", config=types.GenerateContentConfig(tools=[add])
    )
    assert answer.text == "Three."
    _, again = service.requests
    assert again.messages[1:] == (
        Message("assistant", (Thinking("let me", signature="sig/+"), ToolCall("toolu_1", "add", '{"a":1,"b":2}'))),
        Message("user", (ToolResult("toolu_1", "add", (Text("3"),)),)),
    )
    assert isinstance(again.tools[0], Tool)


def test_a_streamed_chat_goes_on(service):
    service.stream(
        PartBegun(0, Thinking("")),
        PartGrew(0, "h"),
        PartGrew(0, "m", "sig/+"),
        PartEnded(0),
        PartBegun(1, Text("")),
        PartGrew(1, "Hel"),
        PartGrew(1, "lo"),
        PartEnded(1),
        Finished("stop"),
    )
    service.answer(Text("Bye"))
    chat = service.client.chats.create(model="claude")
    chunks = list(chat.send_message_stream("Hi"))
    assert "".join(chunk.text or "" for chunk in chunks) == "Hello"
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert chunks[-1].usage_metadata.total_token_count == 24
    assert chat.send_message("And?").text == "Bye"
    assert service.requests[0].stream
    assert service.requests[1].messages == (
        Message("user", (Text("Hi"),)),
        Message("assistant", (Thinking("hm", signature="sig/+"), Text("Hello"))),
        Message("user", (Text("And?"),)),
    )


def test_streamed_calls_come_whole(service):
    service.stream(
        PartBegun(0, ToolCall("c1", "f", "")),
        PartBegun(1, ToolCall("c2", "g", "")),
        PartGrew(0, '{"a":'),
        PartGrew(1, "{}"),
        PartGrew(0, "1}"),
        PartEnded(0),
        PartEnded(1),
        Finished("tool_calls"),
    )
    chunks = list(service.client.models.generate_content_stream(model="claude", contents="x"))
    calls = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert [(call.id, call.name, call.args) for call in calls] == [("c1", "f", {"a": 1}), ("c2", "g", {})]


def test_an_error_is_one_of_the_sdks(service):
    body = API.error(RateLimited("Slow down.", retry_after_s=3), "req-1")
    service.answers.append(lambda _: (429, body))
    with pytest.raises(google_errors.ClientError) as caught:
        service.client.models.generate_content(model="claude", contents="x")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert caught.value.message == "Slow down."
    assert caught.value.details["error"]["details"][0]["reason"] == "ai_rate_limited"


def test_a_stream_that_fails_raises_in_the_sdk(service):
    service.stream(
        PartBegun(0, Text("")), PartGrew(0, "Hel"), after=API.stream_error(Unavailable("It broke off."), "req-1")
    )
    chunks = service.client.models.generate_content_stream(model="claude", contents="x")
    assert next(chunks).text == "Hel"
    with pytest.raises(google_errors.ServerError) as caught:
        next(chunks)
    assert (caught.value.code, caught.value.message) == (503, "It broke off.")


def test_embeddings_are_relayed_under_the_models_own_name():
    sent: list[tuple[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked = GeminiEmbeddingsApi().read(request.content, request.url.path.partition("models/")[2].partition(":")[0])
        assert asked.model == "alias"
        adapter = GeminiAdapter(base_url="", api_key="").dialect("gemini-embeddings")
        assert adapter is not None
        wire = adapter.relay(asked.body, model="gemini-embedding-001", stream=False, headers=request.headers)
        sent.append((wire.path, json.loads(wire.body)))
        return httpx.Response(200, json={"embeddings": [{"values": [0.5]}, {"values": [0.25]}]})

    transport = httpx.Client(transport=httpx.MockTransport(handle))
    options = types.HttpOptions(base_url="http://tollhouse.test", httpx_client=transport)
    client = genai.Client(api_key="k", http_options=options)
    answer = client.models.embed_content(model="alias", contents=["a", "b"])
    assert answer.embeddings is not None
    assert [each.values for each in answer.embeddings] == [[0.5], [0.25]]
    ((path, body),) = sent
    assert path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert [each["model"] for each in body["requests"]] == ["models/gemini-embedding-001"] * 2


def test_every_answer_is_one_of_the_sdks_types():
    parts = (Thinking("", redacted="x"), Text("a"), ToolCall("c", "f", '{"a":[1,{"b":null}]}', signature="s"))
    body = json.loads(API.answer(ProviderAnswer("a", "refusal", None, parts=parts), USAGE, HEAD))
    answer = types.GenerateContentResponse.model_validate(body)
    assert answer.candidates is not None
    content = answer.candidates[0].content
    assert content is not None
    assert content.parts is not None
    assert content.parts[2].function_call == types.FunctionCall(id="c", name="f", args={"a": [1, {"b": None}]})
    assert answer.candidates[0].finish_reason is types.FinishReason.SAFETY
