"""OpenAI's own Python client: chat completions of every vendor's models, whole and streamed."""

import asyncio
import json
from typing import Any

import openai
import pydantic
import pytest

from harness.client_calls import ANSWER, WEATHER_CALL, WEATHER_SCHEMA, Client
from tollhouse.testing import Behaviour

pytestmark = pytest.mark.engine("sqlite")

MODELS = ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash", "deepseek-chat")
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "When does it open?"},
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather to come.", "parameters": WEATHER_SCHEMA},
    }
]


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


FORECAST = Forecast(city="Aix en Provence", degrees=21)


def sdk(client: Client, **options) -> Any:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key, **options)


def check_usage(usage, receipt):
    assert usage.prompt_tokens == receipt.input_tokens + receipt.cached_input_tokens
    assert usage.prompt_tokens_details.cached_tokens == receipt.cached_input_tokens == 30
    assert usage.completion_tokens == receipt.output_tokens + receipt.reasoning_tokens
    assert usage.completion_tokens_details.reasoning_tokens == receipt.reasoning_tokens == 11
    assert usage.total_tokens == receipt.total_tokens


def check_answer(completion, receipt, model):
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == ANSWER
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert completion.object == "chat.completion"
    assert completion.model == model
    check_usage(completion.usage, receipt)


@pytest.mark.parametrize("model", MODELS)
def test_an_answer(client, model):
    client.told()
    with sdk(client) as api:
        completion = api.chat.completions.create(model=model, messages=MESSAGES, temperature=0.5, max_tokens=100)
    check_answer(completion, client.settled(), model)
    assert client.fake.receipts()[-1].model == model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shows_usage", [True, False])
def test_a_stream(client, model, shows_usage):
    client.told()
    options = {"stream_options": {"include_usage": True}} if shows_usage else {}
    with sdk(client) as api:
        chunks = list(api.chat.completions.create(model=model, messages=MESSAGES, stream=True, **options))
    receipt = client.settled()
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    # One that every client takes without a look.
    assert all(chunk.choices for chunk in chunks[: -1 if shows_usage else None])
    assert "".join(choice.delta.content or "" for choice in choices) == ANSWER
    assert len([choice for choice in choices if choice.delta.content]) == len(ANSWER.split())
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    if shows_usage:
        (usage,) = usages
        check_usage(usage, receipt)
    elif model != "deepseek-chat":
        # DeepSeek shows it unasked, and what it sends is passed on untouched.
        assert usages == []


@pytest.mark.parametrize("model", MODELS)
def test_a_limit_that_is_reached(client, model):
    client.told(output_tokens=3, reasoning_tokens=0, use_full_max_tokens=True)
    with sdk(client) as api:
        completion = api.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=3)
    assert completion.choices[0].message.content == "The bridge opens"
    assert completion.choices[0].finish_reason == "length"
    assert client.settled().output_tokens == 3


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_and_answered(client, model):
    client.told(tool_call=WEATHER_CALL)
    with sdk(client) as api:
        completion = api.chat.completions.create(model=model, messages=MESSAGES, tools=TOOLS, tool_choice="auto")
        (choice,) = completion.choices
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == WEATHER_CALL.arguments
        check_usage(completion.usage, client.settled())
        client.told()
        said = [*MESSAGES, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain, as ever."}]
        completion = api.chat.completions.create(model=model, messages=said, tools=TOOLS)
    assert completion.choices[0].message.content == ANSWER
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_in_a_stream(client, model):
    client.told(tool_call=WEATHER_CALL)
    with (
        sdk(client) as api,
        api.chat.completions.stream(
            model=model, messages=MESSAGES, tools=TOOLS, stream_options={"include_usage": True}
        ) as stream,
    ):
        events = list(stream)
        completion = stream.get_final_completion()
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, json.loads(event.arguments)) for event in done] == [("get_weather", WEATHER_CALL.arguments)]
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.id
    assert json.loads(call.function.arguments) == WEATHER_CALL.arguments
    check_usage(completion.usage, client.settled())


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"])
def test_structured_output(client, model):
    client.told(content=FORECAST.model_dump_json())
    with sdk(client) as api:
        completion = api.chat.completions.parse(model=model, messages=MESSAGES, response_format=Forecast)
    assert completion.choices[0].message.parsed == FORECAST
    assert "degrees" in json.dumps(client.sent())
    check_usage(completion.usage, client.settled())


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"])
def test_structured_output_in_a_stream(client, model):
    client.told(content=FORECAST.model_dump_json())
    with (
        sdk(client) as api,
        api.chat.completions.stream(model=model, messages=MESSAGES, response_format=Forecast) as stream,
    ):
        completion = stream.get_final_completion()
    assert completion.choices[0].message.parsed == FORECAST
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_the_asynchronous_client(client, model):
    async def ask():
        api: Any
        async with openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key=client.key) as api:
            completion = await api.chat.completions.create(model=model, messages=MESSAGES)
            check_answer(completion, client.settled(), model)
            async with api.chat.completions.stream(model=model, messages=MESSAGES) as stream:
                texts = [event.delta async for event in stream if event.type == "content.delta"]
            async with await api.chat.completions.create(model=model, messages=MESSAGES, stream=True) as stream:
                raw = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            return texts, raw

    client.told()
    texts, raw = asyncio.run(ask())
    assert "".join(texts) == "".join(raw) == ANSWER
    client.settled(calls=3)


def test_embeddings(client):
    client.fake.behave(Behaviour(input_tokens=7))
    asked = {"model": "text-embedding-3-small", "input": ["the first", "the second"]}
    with sdk(client) as api:
        answer = api.embeddings.create(**asked)
        exact = api.embeddings.create(**asked, encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 8
    assert answer.data[0].embedding != answer.data[1].embedding
    # The client asks for base64 unless told otherwise, which has the precision of single floats.
    for item, other in zip(answer.data, exact.data, strict=True):
        assert item.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == client.settled(calls=2).input_tokens == 7


def test_embeddings_of_another_vendor_are_refused_by_name(client):
    with sdk(client) as api, pytest.raises(openai.UnprocessableEntityError, match="gemini-embedding-001"):
        api.embeddings.create(model="gemini-embedding-001", input="the first")
    assert client.fake.receipts() == []
    client.nothing_billed()


def test_models(client):
    with sdk(client) as api:
        listed = {each.id: each.owned_by for each in api.models.list()}
        assert listed["claude-haiku-4-5"] == "anthropic"
        assert listed["gpt-4o-mini"] == "openai"
        assert api.models.retrieve("gemini-2.5-flash").id == "gemini-2.5-flash"
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve("gpt-nowhere")
