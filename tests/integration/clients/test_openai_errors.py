"""What OpenAI's own Python client makes of a call that is refused, or breaks off: its exceptions, and its retries."""

import openai
import pytest

from harness.client_calls import ANSWER, Client
from harness.service import eventually
from tollhouse.testing import Behaviour

pytestmark = pytest.mark.engine("sqlite")

# One model whose requests are relayed, and one for which they are translated.
MODELS = ("gpt-4o-mini", "gemini-2.5-flash")
MESSAGES = [{"role": "user", "content": "When does it open?"}]


class Counting(openai.DefaultHttpxClient):
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
def api(client: Client, http: Counting) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key, http_client=http)


def ask(api, model="gpt-4o-mini", **changes):
    return api.chat.completions.create(**{"model": model, "messages": MESSAGES, "max_tokens": 100, **changes})


def refused(error, code, http, *, requests=1):
    """Check an exception: its code, how often the client tried, and that it can be found in the log."""
    assert error.code == code
    assert error.request_id.startswith("req_")
    assert error.body["message"]
    assert http.requests == requests
    return error.body


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_key(client, api, http, stream):
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(api.with_options(api_key="tk_of_nobody"), stream=stream)
    assert refused(caught.value, "ai_unauthorized", http)["type"] == "authentication_error"
    client.nothing_billed()


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_that_is_used_up_is_not_asked_again(client, api, http, stream):
    client.service.tenant(client.tenant, budget_usd=0)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(api, stream=stream)
    assert caught.value.status_code == 402
    assert refused(caught.value, "ai_budget_exceeded", http)["type"] == "insufficient_quota"
    assert client.fake.receipts() == []
    client.nothing_billed()


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_module(client, api, http, stream):
    client.service.tenant(client.tenant, is_active=False)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(api, stream=stream)
    refused(caught.value, "ai_module_inactive", http)
    client.nothing_billed()


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(client, api, http, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(api, "gpt-nowhere", stream=stream)
    assert "gpt-nowhere" in refused(caught.value, "ai_model_unknown", http)["message"]
    client.nothing_billed()


def test_an_address_that_is_not_served(client, api, http):
    with pytest.raises(openai.NotFoundError):
        api.images.generate(model="gpt-image-1", prompt="A bridge.")
    assert http.requests == 1
    client.nothing_billed()


def test_a_malformed_field_is_named(client, api, http):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(api, max_tokens=-1)
    assert refused(caught.value, "ai_invalid_request", http)["param"] == "max_tokens"
    client.nothing_billed()


def test_what_cannot_be_translated_is_named(client, api, http):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(api, "gemini-2.5-flash", logit_bias={"50256": -100})
    assert refused(caught.value, "ai_invalid_request", http)["param"] == "logit_bias"
    assert client.fake.receipts() == []
    client.nothing_billed()


def test_a_rate_limit_is_told_with_the_time_to_wait(client, api, http):
    impatient = api.with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError) as caught:  # noqa: PT012
        for _ in range(41):
            ask(impatient)
    refused(caught.value, "ai_rate_limited", http, requests=41)
    assert float(caught.value.response.headers["retry-after"]) >= 1
    client.settled(calls=40)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_cannot_take_calls_is_tried_again_by_the_client(client, api, http, model, stream):
    client.fake.behave(Behaviour(status=503, retry_after_s=0))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(api, model, stream=stream)
    # The client's own two retries, each of which Tollhouse tries twice.
    refused(caught.value, "ai_unavailable", http, requests=3)
    assert caught.value.status_code == 503
    assert len(client.fake.receipts()) == 6
    client.nothing_billed()


@pytest.mark.parametrize("model", MODELS)
def test_a_call_that_may_have_been_billed_is_not_made_again_by_the_client(client, api, http, model):
    client.fake.behave(Behaviour(reset="mid_answer"))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(api, model)
    refused(caught.value, "ai_unavailable", http)
    assert len(client.fake.receipts()) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_provider_that_recovers_answers_a_retry(client, api, http, model):
    client.fake.script([Behaviour(status=503), Behaviour(status=503)])
    client.told()
    assert ask(api, model).choices[0].message.content == ANSWER
    assert http.requests == 2
    client.settled()


def test_the_providers_own_refusal_is_passed_on_to_its_own_client(client, api, http):
    client.fake.behave(Behaviour(status=400, reason="There is no such voice."))
    with pytest.raises(openai.BadRequestError, match=r"There is no such voice\.") as caught:
        ask(api)
    assert caught.value.type == "invalid_request_error"
    assert http.requests == 1
    client.nothing_billed()


def test_another_vendors_refusal_is_told_as_tollhouses(client, api, http):
    client.fake.behave(Behaviour(status=400, reason="There is no such voice."))
    with pytest.raises(openai.UnprocessableEntityError, match=r"There is no such voice\.") as caught:
        ask(api, "gemini-2.5-flash")
    refused(caught.value, "ai_provider_rejected", http)
    client.nothing_billed()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "how", [{"cut_after_events": 3}, {"cut_after_events": 3, "cut": "reset"}, {"error_after_events": 3}]
)
def test_a_stream_that_the_provider_breaks_off_raises(client, api, http, model, how):
    client.told(**how)
    texts = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012
        for chunk in ask(api, model, stream=True):
            texts.append(chunk.choices[0].delta.content or "")
    assert caught.value.code == "ai_unavailable"
    # What came before has been passed on, and has to be paid for; how much is an estimate.
    assert ANSWER.startswith("".join(texts))
    assert 0 < len("".join(texts)) < len(ANSWER)
    assert http.requests == 1
    (row,) = client.service.rows(tenant_id=client.tenant)
    assert (row["status"], row["usage_source"]) == ("settled", "estimated")
    assert row["output_tokens"] > 0
    client.nothing_reserved()


@pytest.mark.parametrize("model", MODELS)
def test_an_error_as_a_streams_first_event_is_an_error_like_any_other(client, api, http, model):
    client.fake.behave(Behaviour(error_after_events=0, reason="Overloaded."))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(api.with_options(max_retries=0), model, stream=True)
    refused(caught.value, "ai_unavailable", http)
    client.nothing_billed()


@pytest.mark.parametrize("model", MODELS)
def test_a_caller_that_leaves_pays_for_what_was_made(client, api, http, model):
    client.told(content=" ".join(["word"] * 60), chunk_delay_s=0.005)
    with ask(api, model, stream=True, max_tokens=200) as stream:
        next(iter(stream))
    eventually(lambda: client.service.rows(tenant_id=client.tenant))
    client.settled()
