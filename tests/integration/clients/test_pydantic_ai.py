"""Pydantic AI, a framework on top of the vendors' own clients: agents with a tool, whole and streamed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from google import genai
from google.genai import types
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from harness.client_calls import ANSWER, WEATHER_CALL, Client
from tollhouse.testing import Behaviour
from tollhouse.testing.behaviour import ToolCall

pytestmark = pytest.mark.engine("sqlite")

QUESTION = "When does it open?"
MODELS = ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash")
CLIENTS = ("openai", "openai-responses", "anthropic", "google")


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


@contextlib.asynccontextmanager
async def model_of(client: Client, of: str, name: str) -> AsyncIterator[Any]:
    """Give a model on top of a vendor's own client, whose connections are closed afterwards."""
    if of == "anthropic":
        async with anthropic.AsyncAnthropic(base_url=client.url, api_key=client.key) as claude:
            yield AnthropicModel(name, provider=AnthropicProvider(anthropic_client=claude))
    elif of == "google":
        options = types.HttpOptions(base_url=client.url)
        with genai.Client(api_key=client.key, http_options=options) as google:
            try:
                yield GoogleModel(name, provider=GoogleProvider(client=google))
            finally:
                await google.aio.aclose()
    else:
        kind = OpenAIChatModel if of == "openai" else OpenAIResponsesModel
        async with openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key=client.key) as gpt:
            yield kind(name, provider=OpenAIProvider(openai_client=gpt))


def agent_of(client: Client, model: Any) -> tuple[Agent[None, str], list[Any]]:
    """Return an agent with a tool, which it is going to use, and a list of what the tool was asked."""
    agent = Agent(model, instructions="You are terse.")
    asked = []

    @agent.tool_plain
    def get_weather(city: str, days: int) -> str:
        """Tell the weather to come."""
        asked.append({"city": city, "days": days})
        return "Rain, as ever."

    client.told()
    client.fake.script([Behaviour(tool_call=WEATHER_CALL, input_tokens=50)])
    return agent, asked


def check_usage(client, usage):
    """Check what the framework adds up over both calls."""
    client.settled(calls=2)
    receipts = client.fake.receipts()
    assert usage.requests == 2
    assert usage.cache_read_tokens == 30
    assert usage.input_tokens == sum(each.input_tokens + each.cached_input_tokens for each in receipts)
    assert usage.output_tokens == sum(each.output_tokens + each.reasoning_tokens for each in receipts)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("of", CLIENTS)
def test_an_agent_uses_its_tool(client, of, model):
    async def scenario():
        async with model_of(client, of, model) as each:
            agent, asked = agent_of(client, each)
            result = await agent.run(QUESTION)
            return result.output, asked, result.usage

    output, asked, usage = asyncio.run(scenario())
    assert (output, asked) == (ANSWER, [WEATHER_CALL.arguments])
    assert "Rain, as ever." in json.dumps(client.sent())
    check_usage(client, usage)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("of", CLIENTS)
def test_an_agent_uses_its_tool_in_streams(client, of, model):
    async def scenario():
        async with model_of(client, of, model) as each:
            agent, asked = agent_of(client, each)
            async with agent.run_stream(QUESTION) as stream:
                texts = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
            return texts, asked, stream.usage

    texts, asked, usage = asyncio.run(scenario())
    assert ("".join(texts), asked) == (ANSWER, [WEATHER_CALL.arguments])
    assert len(texts) > 1
    assert "Rain, as ever." in json.dumps(client.sent())
    check_usage(client, usage)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("of", CLIENTS)
def test_an_agent_answers_in_a_form(client, of, model):
    async def scenario():
        async with model_of(client, of, model) as each:
            return (await Agent(each, output_type=Forecast).run(QUESTION)).output

    # The framework asks for a form by a tool that takes it.
    client.told(tool_call=ToolCall("final_result", {"city": "Paris", "degrees": 21}))
    assert asyncio.run(scenario()) == Forecast(city="Paris", degrees=21)
    client.settled()


@pytest.mark.parametrize("of", CLIENTS)
def test_a_budget_that_is_used_up_ends_the_agent(client, of):
    async def scenario():
        async with model_of(client, of, "claude-haiku-4-5") as each:
            await Agent(each).run(QUESTION)

    client.service.tenant(client.tenant, budget_usd=0)
    with pytest.raises(ModelHTTPError) as caught:
        asyncio.run(scenario())
    assert caught.value.status_code == 402
    assert "ai_budget_exceeded" in str(caught.value.body)
    client.nothing_billed()
