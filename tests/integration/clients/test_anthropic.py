"""Anthropic's own Python client: every vendor's models, whole and streamed."""

import asyncio
import json
from typing import Any

import anthropic
import pydantic
import pytest

from harness.client_calls import ANSWER, WEATHER_CALL, WEATHER_SCHEMA, Client
from harness.service import eventually
from tollhouse.testing import Behaviour

pytestmark = pytest.mark.engine("sqlite")

MODELS = ("claude-haiku-4-5", "gpt-4o-mini", "gemini-2.5-flash", "deepseek-chat")
ASKED: dict[str, Any] = {
    "system": "You are terse.",
    "messages": [{"role": "user", "content": "When does it open?"}],
    "max_tokens": 100,
}
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather to come.", "input_schema": WEATHER_SCHEMA}]


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


FORECAST = Forecast(city="Aix en Provence", degrees=21)


class Counting(anthropic.DefaultHttpxClient):
    """Counts the requests that the client really sends."""

    requests = 0

    def send(self, *args, **kwargs):
        self.requests += 1
        return super().send(*args, **kwargs)


@pytest.fixture
def http():
    with Counting() as http:
        yield http


@pytest.fixture
def api(client: Client, http: Counting) -> anthropic.Anthropic:
    # Its key goes in x-api-key.
    return anthropic.Anthropic(base_url=client.url, api_key=client.key, http_client=http)


def check_usage(usage, receipt):
    assert usage.input_tokens == receipt.input_tokens == 120
    assert usage.cache_read_input_tokens == receipt.cached_input_tokens == 30
    assert usage.cache_creation_input_tokens == receipt.cache_write_tokens + receipt.cache_write_1h_tokens
    assert usage.output_tokens == receipt.output_tokens + receipt.reasoning_tokens
    assert usage.output_tokens_details.thinking_tokens == receipt.reasoning_tokens == 11


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("model", MODELS)
def test_an_answer(client, api, model):
    client.told()
    message = api.messages.create(model=model, stop_sequences=["END"], **ASKED)
    assert text_of(message) == ANSWER
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.model == model
    assert message._request_id == client.service.rows(tenant_id=client.tenant)[0]["request_id"]
    check_usage(message.usage, client.settled())
    assert client.fake.receipts()[-1].model == model


def test_tokens_written_into_a_cache(client, api):
    client.told(cache_write_tokens=40, cache_write_1h_tokens=50)
    system = [{"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}]
    message = api.messages.create(model="claude-haiku-4-5", **{**ASKED, "system": system})
    assert message.usage.cache_creation.ephemeral_5m_input_tokens == 40
    assert message.usage.cache_creation.ephemeral_1h_input_tokens == 50
    check_usage(message.usage, client.settled())
    assert client.sent()["system"] == system


def test_a_key_may_come_as_a_bearer_token(client):
    client.told()
    with anthropic.Anthropic(base_url=client.url, auth_token=client.key) as api:
        assert text_of(api.messages.create(model="claude-haiku-4-5", **ASKED)) == ANSWER
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(client, api, model):
    client.told()
    with api.messages.stream(model=model, **ASKED) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
        assert stream.request_id == client.service.rows(tenant_id=client.tenant)[0]["request_id"]
    assert "".join(texts) == text_of(message) == ANSWER
    assert len(texts) == len(ANSWER.split())
    assert message.stop_reason == "end_turn"
    assert message.model == model
    check_usage(message.usage, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_the_events_of_a_stream(client, api, model):
    client.told()
    with api.messages.create(model=model, stream=True, **ASKED) as stream:
        kinds = [event.type for event in stream if event.type != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_a_limit_that_is_reached(client, api, model):
    client.told(output_tokens=3, reasoning_tokens=0)
    message = api.messages.create(model=model, **{**ASKED, "max_tokens": 3})
    assert text_of(message) == "The bridge opens"
    assert message.stop_reason == "max_tokens"
    client.settled()


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_and_answered(client, api, model):
    client.told(tool_call=WEATHER_CALL)
    message = api.messages.create(model=model, tools=TOOLS, **ASKED)
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert (call.name, call.input) == ("get_weather", WEATHER_CALL.arguments)
    check_usage(message.usage, client.settled())
    client.told()
    said = [
        *ASKED["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain, as ever."}]},
    ]
    message = api.messages.create(model=model, tools=TOOLS, **{**ASKED, "messages": said})
    assert text_of(message) == ANSWER
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_in_a_stream(client, api, model):
    client.told(tool_call=WEATHER_CALL)
    with api.messages.stream(model=model, tools=TOOLS, **ASKED) as stream:
        pieces = "".join(event.partial_json for event in stream if event.type == "input_json")
        message = stream.get_final_message()
    assert json.loads(pieces) == WEATHER_CALL.arguments
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", WEATHER_CALL.arguments)
    assert call.id
    assert message.stop_reason == "tool_use"
    check_usage(message.usage, client.settled())


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o-mini", "gemini-2.5-flash"])
def test_structured_output(client, api, model):
    client.told(content=FORECAST.model_dump_json())
    message = api.messages.parse(model=model, output_format=Forecast, **ASKED)
    assert message.parsed_output == FORECAST
    assert "degrees" in json.dumps(client.sent())
    check_usage(message.usage, client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_the_asynchronous_client(client, model):
    async def ask():
        async with anthropic.AsyncAnthropic(base_url=client.url, api_key=client.key) as api:
            message = await api.messages.create(model=model, **ASKED)
            async with api.messages.stream(model=model, **ASKED) as stream:
                texts = [text async for text in stream.text_stream]
            return text_of(message), texts

    client.told()
    text, texts = asyncio.run(ask())
    assert text == "".join(texts) == ANSWER
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_counting_tokens_costs_nothing(client, api, model):
    counted = api.messages.count_tokens(model=model, system=ASKED["system"], messages=ASKED["messages"], tools=TOOLS)
    assert counted.input_tokens > 20
    asked = [receipt.path for receipt in client.fake.receipts()]
    # No other vendor counts at an address of its own that is translated to: it is estimated then.
    assert asked == (["/v1/messages/count_tokens"] if model == "claude-haiku-4-5" else [])
    client.nothing_billed()


def test_models(client, api):
    listed = {each.id: each.type for each in api.models.list()}
    assert listed["claude-haiku-4-5"] == listed["gpt-4o-mini"] == "model"
    assert api.models.retrieve("claude-haiku-4-5").display_name == "claude-haiku-4-5"
    with pytest.raises(anthropic.NotFoundError):
        api.models.retrieve("claude-nowhere")


def refusal(api, stream, kind, word, model="claude-haiku-4-5", **changes):
    """Call what is to be refused, and return Tollhouse's own code."""
    caught: Any
    with pytest.raises(kind) as caught:
        api.messages.create(model=model, stream=stream, **{**ASKED, **changes})
    error = caught.value.body["error"]
    assert error["type"] == word
    assert error["message"]
    assert caught.value.request_id.startswith("req_")
    return error["code"]


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_that_are_not_asked_again(client, api, http, stream):
    nobody = api.with_options(api_key="tk_of_nobody")
    assert refusal(nobody, stream, anthropic.AuthenticationError, "authentication_error") == "ai_unauthorized"
    code = refusal(api, stream, anthropic.NotFoundError, "not_found_error", "claude-nowhere")
    assert code == "ai_model_unknown"
    code = refusal(api, stream, anthropic.UnprocessableEntityError, "invalid_request_error", max_tokens=-1)
    assert code == "ai_invalid_request"
    code = refusal(
        api, stream, anthropic.UnprocessableEntityError, "invalid_request_error", "gpt-4o-mini", container="c"
    )
    assert code == "ai_invalid_request"
    client.service.tenant(client.tenant, budget_usd=0)
    assert refusal(api, stream, anthropic.APIStatusError, "billing_error") == "ai_budget_exceeded"
    client.service.tenant(client.tenant, is_active=False)
    assert refusal(api, stream, anthropic.PermissionDeniedError, "permission_error") == "ai_module_inactive"
    assert http.requests == 6
    assert client.fake.receipts() == []
    client.nothing_billed()


def test_a_rate_limit(client, api):
    impatient = api.with_options(max_retries=0)
    caught: Any
    with pytest.raises(anthropic.RateLimitError) as caught:  # noqa: PT012
        for _ in range(41):
            impatient.messages.create(model="gpt-4o-mini", **ASKED)
    assert caught.value.body["error"]["code"] == "ai_rate_limited"
    assert float(caught.value.response.headers["retry-after"]) >= 1
    client.settled(calls=40)


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o-mini"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_cannot_take_calls_is_tried_again_by_the_client(client, api, http, model, stream):
    client.fake.behave(Behaviour(status=503, retry_after_s=0))
    assert refusal(api, stream, anthropic.InternalServerError, "overloaded_error", model) == "ai_unavailable"
    assert http.requests == 3
    assert len(client.fake.receipts()) == 6
    client.nothing_billed()


def test_the_providers_own_refusal_is_passed_on_to_its_own_client(client, api):
    client.fake.behave(Behaviour(status=400, reason="There is no such voice."))
    with pytest.raises(anthropic.BadRequestError, match=r"There is no such voice\."):
        api.messages.create(model="claude-haiku-4-5", **ASKED)
    with pytest.raises(anthropic.UnprocessableEntityError, match=r"There is no such voice\."):
        api.messages.create(model="gpt-4o-mini", **ASKED)
    client.nothing_billed()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "how", [{"cut_after_events": 5}, {"cut_after_events": 5, "cut": "reset"}, {"error_after_events": 5}]
)
def test_a_stream_that_the_provider_breaks_off_raises(client, api, model, how):
    client.told(content=" ".join(["word"] * 20), **how)
    texts = []
    caught: Any
    with (  # noqa: PT012
        pytest.raises(anthropic.APIStatusError) as caught,
        api.messages.stream(model=model, **ASKED) as stream,
    ):
        for text in stream.text_stream:
            texts.append(text)
    assert 0 < len(texts) < 20
    assert caught.value.body["error"]["code"] == "ai_unavailable"
    (row,) = client.service.rows(tenant_id=client.tenant)
    assert (row["status"], row["usage_source"]) == ("settled", "estimated")
    client.nothing_reserved()


def test_a_caller_that_leaves_gets_the_same_answer_once_more_by_its_key(client, api):
    client.told(content=" ".join(["word"] * 60), chunk_delay_s=0.005)
    key = {"Idempotency-Key": f"order-{client.tenant}"}
    with api.messages.stream(model="gpt-4o-mini", extra_headers=key, **ASKED) as stream:
        next(iter(stream.text_stream))
    eventually(lambda: client.service.rows(tenant_id=client.tenant))
    with api.messages.stream(model="gpt-4o-mini", extra_headers=key, **ASKED) as stream:
        assert stream.get_final_text() == " ".join(["word"] * 60)
    client.settled()
