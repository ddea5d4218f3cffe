"""OpenAI's own Python client: the Responses API for every vendor's models, whole and streamed."""

import asyncio
import json
from typing import Any

import openai
import pydantic
import pytest

from harness.client_calls import ANSWER, WEATHER_CALL, WEATHER_SCHEMA, Client

pytestmark = pytest.mark.engine("sqlite")

MODELS = ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash", "deepseek-chat")
ASKED: dict[str, Any] = {"instructions": "You are terse.", "input": "When does it open?"}
TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "parameters": WEATHER_SCHEMA, "strict": True}]


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


FORECAST = Forecast(city="Aix en Provence", degrees=21)


def sdk(client: Client, **options) -> Any:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key, **options)


def check_usage(usage, receipt):
    assert usage.input_tokens == receipt.input_tokens + receipt.cached_input_tokens
    assert usage.input_tokens_details.cached_tokens == receipt.cached_input_tokens == 30
    assert usage.output_tokens == receipt.output_tokens + receipt.reasoning_tokens
    assert usage.output_tokens_details.reasoning_tokens == receipt.reasoning_tokens == 11
    assert usage.total_tokens == receipt.total_tokens


@pytest.mark.parametrize("model", MODELS)
def test_an_answer(client, model):
    client.told()
    with sdk(client) as api:
        response = api.responses.create(model=model, store=False, max_output_tokens=100, **ASKED)
    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.error is None
    assert response.model == model
    check_usage(response.usage, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(client, model):
    client.told()
    with sdk(client) as api, api.responses.stream(model=model, store=False, **ASKED) as stream:
        events = list(stream)
        response = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text == ANSWER
    assert len(deltas) == len(ANSWER.split())
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    check_usage(response.usage, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_a_limit_that_is_reached(client, model):
    client.told(output_tokens=16, reasoning_tokens=0, content=" ".join(["word"] * 20))
    with sdk(client) as api:
        response = api.responses.create(model=model, store=False, max_output_tokens=16, **ASKED)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == " ".join(["word"] * 16)
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_and_answered(client, model):
    client.told(tool_call=WEATHER_CALL)
    with sdk(client) as api:
        response = api.responses.create(model=model, store=False, tools=TOOLS, **ASKED)
        (call,) = [item for item in response.output if item.type == "function_call"]
        assert call.name == "get_weather"
        assert json.loads(call.arguments) == WEATHER_CALL.arguments
        check_usage(response.usage, client.settled())
        client.told()
        said = [
            {"role": "user", "content": ASKED["input"]},
            *response.output,
            {"type": "function_call_output", "call_id": call.call_id, "output": "Rain, as ever."},
        ]
        response = api.responses.create(model=model, store=False, tools=TOOLS, input=said)
    assert response.output_text == ANSWER
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_in_a_stream(client, model):
    client.told(tool_call=WEATHER_CALL)
    with sdk(client) as api, api.responses.stream(model=model, store=False, tools=TOOLS, **ASKED) as stream:
        events = list(stream)
        response = stream.get_final_response()
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [WEATHER_CALL.arguments]
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == WEATHER_CALL.arguments
    check_usage(response.usage, client.settled())


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"])
def test_structured_output(client, model):
    client.told(content=FORECAST.model_dump_json())
    with sdk(client) as api:
        response = api.responses.parse(model=model, store=False, text_format=Forecast, **ASKED)
    assert response.output_parsed == FORECAST
    assert "degrees" in json.dumps(client.sent())
    check_usage(response.usage, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_the_asynchronous_client(client, model):
    async def ask():
        api: Any
        async with openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key=client.key) as api:
            response = await api.responses.create(model=model, store=False, **ASKED)
            async with await api.responses.create(model=model, store=False, stream=True, **ASKED) as stream:
                events = [event async for event in stream]
            return response.output_text, [e.delta for e in events if e.type == "response.output_text.delta"]

    client.told()
    text, deltas = asyncio.run(ask())
    assert text == "".join(deltas) == ANSWER
    client.settled(calls=2)


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gemini-2.5-flash"])
@pytest.mark.parametrize("how", [{"cut_after_events": 6}, {"error_after_events": 6}])
def test_a_stream_that_the_provider_breaks_off_raises(client, model, how):
    client.told(content=" ".join(["word"] * 20), **how)
    deltas = []
    with sdk(client) as api, pytest.raises(openai.APIError) as caught:  # noqa: PT012
        for event in api.responses.create(model=model, store=False, stream=True, **ASKED):
            if event.type == "response.output_text.delta":
                deltas.append(event.delta)
    assert caught.value.code == "ai_unavailable"
    assert 0 < len(deltas) < 20
    (row,) = client.service.rows(tenant_id=client.tenant)
    assert (row["status"], row["usage_source"]) == ("settled", "estimated")
    client.nothing_reserved()


@pytest.mark.parametrize("stream", [False, True])
def test_errors(client, stream):
    with sdk(client) as api:
        with pytest.raises(openai.NotFoundError) as unknown:
            api.responses.create(model="gpt-nowhere", stream=stream, store=False, **ASKED)
        assert unknown.value.code == "ai_model_unknown"
        with pytest.raises(openai.UnprocessableEntityError) as malformed:
            api.responses.create(model="gpt-4o-mini", max_output_tokens=-1, stream=stream, store=False, **ASKED)
        assert malformed.value.param == "max_output_tokens"
        client.service.tenant(client.tenant, budget_usd=0)
        with pytest.raises(openai.APIStatusError) as spent:
            api.responses.create(model="gpt-4o-mini", stream=stream, store=False, **ASKED)
        assert (spent.value.status_code, spent.value.code) == (402, "ai_budget_exceeded")
    client.nothing_billed()
