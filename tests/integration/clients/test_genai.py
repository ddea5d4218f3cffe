"""Google's own Python client: every vendor's models, whole and streamed."""

import asyncio
import json
from typing import Any

import httpx
import pydantic
import pytest
from google import genai
from google.genai import errors, types

from harness.client_calls import ANSWER, WEATHER_CALL, WEATHER_SCHEMA, Client
from tollhouse.testing import Behaviour

pytestmark = pytest.mark.engine("sqlite")

MODELS = ("gemini-2.5-flash", "claude-haiku-4-5", "gpt-4o-mini", "deepseek-chat")
QUESTION = "When does it open?"
DECLARATION: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather to come.",
    "parameters_json_schema": WEATHER_SCHEMA,
}
TOOLS = types.GenerateContentConfig(
    tools=[types.Tool(function_declarations=[types.FunctionDeclaration(**DECLARATION)])],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


FORECAST = Forecast(city="Aix en Provence", degrees=21)


def sdk(client: Client, **options) -> Any:
    return genai.Client(api_key=client.key, http_options=types.HttpOptions(base_url=client.url, **options))


def check_usage(usage, receipt):
    assert usage.prompt_token_count == receipt.input_tokens + receipt.cached_input_tokens
    assert usage.cached_content_token_count == receipt.cached_input_tokens == 30
    assert usage.candidates_token_count == receipt.output_tokens
    assert usage.thoughts_token_count == receipt.reasoning_tokens == 11
    assert usage.total_token_count == receipt.total_tokens


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("version", ["v1beta", "v1"])
def test_an_answer(client, model, version):
    client.told()
    config = {"system_instruction": "You are terse.", "temperature": 0.5, "max_output_tokens": 100}
    with sdk(client, api_version=version) as api:
        answer = api.models.generate_content(model=model, contents=QUESTION, config=config)
    assert answer.text == ANSWER
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    check_usage(answer.usage_metadata, client.settled())
    assert client.fake.receipts()[-1].model == model


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(client, model):
    client.told()
    with sdk(client) as api:
        chunks = list(api.models.generate_content_stream(model=model, contents=QUESTION))
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert "".join(texts) == ANSWER
    assert len(texts) == len(ANSWER.split())
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    check_usage(chunks[-1].usage_metadata, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_a_limit_that_is_reached(client, model):
    client.told(output_tokens=3, reasoning_tokens=0)
    with sdk(client) as api:
        answer = api.models.generate_content(model=model, contents=QUESTION, config={"max_output_tokens": 3})
    assert answer.text == "The bridge opens"
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_a_function_is_called_and_answered(client, model):
    client.told(tool_call=WEATHER_CALL)
    with sdk(client) as api:
        asked = types.UserContent(QUESTION)
        answer = api.models.generate_content(model=model, contents=[asked], config=TOOLS)
        (call,) = answer.function_calls
        assert (call.name, call.args) == ("get_weather", WEATHER_CALL.arguments)
        check_usage(answer.usage_metadata, client.settled())
        client.told()
        result = types.FunctionResponse(id=call.id, name=call.name, response={"output": "Rain, as ever."})
        contents = [asked, answer.candidates[0].content, types.UserContent(types.Part(function_response=result))]
        answer = api.models.generate_content(model=model, contents=contents, config=TOOLS)
    assert answer.text == ANSWER
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_the_client_calls_functions_by_itself(client, model):
    asked = []

    def get_weather(city: str, days: int) -> str:
        """Tell the weather to come."""
        asked.append((city, days))
        return "Rain, as ever."

    client.told()
    client.fake.script([Behaviour(tool_call=WEATHER_CALL)])
    with sdk(client) as api:
        answer = api.models.generate_content(model=model, contents=QUESTION, config={"tools": [get_weather]})
    assert answer.text == ANSWER
    assert asked == [("Paris", 2)]
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_a_function_is_called_in_a_stream(client, model):
    client.told(tool_call=WEATHER_CALL)
    with sdk(client) as api:
        chunks = list(api.models.generate_content_stream(model=model, contents=QUESTION, config=TOOLS))
    calls = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert [(call.name, call.args) for call in calls] == [("get_weather", WEATHER_CALL.arguments)]
    check_usage(chunks[-1].usage_metadata, client.settled())


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-haiku-4-5", "gpt-4o-mini"])
@pytest.mark.parametrize("how", ["response_schema", "response_json_schema"])
def test_structured_output(client, model, how):
    client.told(content=FORECAST.model_dump_json())
    schema = Forecast if how == "response_schema" else Forecast.model_json_schema()
    config = {"response_mime_type": "application/json", how: schema}
    with sdk(client) as api:
        answer = api.models.generate_content(model=model, contents=QUESTION, config=config)
    assert Forecast.model_validate_json(answer.text) == FORECAST
    if how == "response_schema":
        assert answer.parsed == FORECAST
    assert "degrees" in json.dumps(client.sent())
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_the_asynchronous_client(client, model):
    async def ask():
        async with sdk(client).aio as api:
            answer = await api.models.generate_content(model=model, contents=QUESTION)
            stream = await api.models.generate_content_stream(model=model, contents=QUESTION)
            return answer.text, [chunk.text async for chunk in stream if chunk.text]

    client.told()
    text, pieces = asyncio.run(ask())
    assert text == "".join(pieces) == ANSWER
    client.settled(calls=2)


def test_a_chat_goes_on(client):
    client.told()
    with sdk(client) as api:
        chat = api.chats.create(model="claude-haiku-4-5")
        chat.send_message(QUESTION)
        assert chat.send_message("And on Sundays?").text == ANSWER
    assert [message["role"] for message in client.sent()["messages"]] == ["user", "assistant", "user"]
    client.settled(calls=2)


def test_embeddings(client):
    client.fake.behave(Behaviour(input_tokens=7))
    with sdk(client) as api:
        one = api.models.embed_content(model="gemini-embedding-001", contents="the first")
        two = api.models.embed_content(model="gemini-embedding-001", contents=["the first", "the second"])
    assert [len(each.values) for each in two.embeddings] == [8, 8]
    assert one.embeddings[0].values == two.embeddings[0].values != two.embeddings[1].values
    assert two.usage_metadata.prompt_token_count == 7
    client.settled(calls=2)


def test_embeddings_of_another_vendor_are_refused_by_name(client):
    with sdk(client) as api, pytest.raises(errors.ClientError, match="are for Google's models") as caught:
        api.models.embed_content(model="text-embedding-3-small", contents="the first")
    assert caught.value.code == 422
    client.nothing_billed()


def refusal(api, stream, code, status, model="gemini-2.5-flash", **config):
    """Call what is to be refused, and return the reason that Google's clients look up in an error."""
    ask = api.models.generate_content_stream if stream else api.models.generate_content
    with pytest.raises(errors.APIError) as caught:
        list(ask(model=model, contents=QUESTION, config=config))
    assert (caught.value.code, caught.value.status) == (code, status)
    assert isinstance(caught.value, errors.ServerError if code >= 500 else errors.ClientError)
    details = {each["@type"].rpartition(".")[2]: each for each in caught.value.details["error"]["details"]}
    assert details["RequestInfo"]["requestId"].startswith("req_")
    return details["ErrorInfo"]["reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_refusals(client, stream):
    with sdk(client) as api:
        assert refusal(api, stream, 404, "NOT_FOUND", "gemini-nowhere") == "ai_model_unknown"
        assert refusal(api, stream, 422, "INVALID_ARGUMENT", max_output_tokens=-1) == "ai_invalid_request"
        client.service.tenant(client.tenant, budget_usd=0)
        assert refusal(api, stream, 402, "RESOURCE_EXHAUSTED") == "ai_budget_exceeded"
        client.service.tenant(client.tenant, is_active=False)
        assert refusal(api, stream, 403, "PERMISSION_DENIED") == "ai_module_inactive"
        client.service.tenant(client.tenant)
        client.fake.behave(Behaviour(status=503, retry_after_s=0))
        for model in ("gemini-2.5-flash", "gpt-4o-mini"):
            assert refusal(api, stream, 503, "UNAVAILABLE", model) == "ai_unavailable"
    with genai.Client(api_key="tk_of_nobody", http_options=types.HttpOptions(base_url=client.url)) as api:
        assert refusal(api, stream, 401, "UNAUTHENTICATED") == "ai_unauthorized"
    client.nothing_billed()


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gpt-4o-mini"])
@pytest.mark.parametrize("how", [{"cut_after_events": 3}, {"error_after_events": 3}])
def test_a_stream_that_the_provider_breaks_off_raises(client, model, how):
    client.told(**how)
    texts = []
    with sdk(client) as api, pytest.raises(errors.ServerError) as caught:  # noqa: PT012
        for chunk in api.models.generate_content_stream(model=model, contents=QUESTION):
            texts.append(chunk.text or "")
    assert caught.value.code == 503
    assert 0 < len("".join(texts)) < len(ANSWER)
    (row,) = client.service.rows(tenant_id=client.tenant)
    assert (row["status"], row["usage_source"]) == ("settled", "estimated")
    client.nothing_reserved()


def test_a_stream_that_is_no_stream_of_events_is_refused(client):
    path = f"{client.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    body = {"contents": [{"parts": [{"text": QUESTION}]}]}
    reply = httpx.post(path, json=body, headers={"x-goog-api-key": client.key})
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert error["message"].startswith("alt: expected sse")
    assert client.fake.receipts() == []
    client.nothing_billed()
