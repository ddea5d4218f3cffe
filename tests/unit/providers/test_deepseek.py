import json
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import OutcomeUnknown, Overloaded, Rejected, WireResponse
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest, Text, Thinking
from tollhouse.providers.deepseek import DeepSeekAdapter
from tollhouse.providers.usage import Usage

ADAPTER = DeepSeekAdapter(base_url="https://api.deepseek.com", api_key="sk-0123456789")


def answer(status: int = 200, **body: Any) -> WireResponse:
    return WireResponse(status=status, headers={}, body=json.dumps(body).encode())


def completion(**usage: Any) -> WireResponse:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "hm"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return answer(id="d-1", choices=choices, usage=usage)


def error(status: int, text: str) -> WireResponse:
    return answer(status, error={"message": text, "type": "invalid_request_error", "code": "invalid_request_error"})


def test_a_request_is_golden():
    request = ProviderRequest(
        model="deepseek-chat",
        messages=(Message("system", "Be brief."), Message("user", "Hello")),
        max_tokens=400,
        temperature=1.3,
        stop=("END",),
    )
    wire = ADAPTER.encode(request)
    assert wire.path == "/chat/completions"
    assert wire.headers == (("authorization", "Bearer sk-0123456789"),)
    assert json.loads(wire.body) == {
        "model": "deepseek-chat",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 400,
        "temperature": 1.3,
        "stop": ["END"],
    }


def test_turns_of_one_role_in_a_row_are_merged():
    turns = (Message("user", "One"), Message("user", "Two"), Message("assistant", "Three"), Message("user", "Four"))
    body = json.loads(ADAPTER.encode(ProviderRequest(model="m", messages=turns, max_tokens=1)).body)
    assert body["messages"] == [
        {"role": "user", "content": "One\n\nTwo"},
        {"role": "assistant", "content": "Three"},
        {"role": "user", "content": "Four"},
    ]


def test_a_schema_is_refused_by_name_rather_than_dropped():
    request = ProviderRequest(model="m", messages=(Message("user", "x"),), max_tokens=1, response_schema={})
    with pytest.raises(InvalidRequest, match=r"^response_schema: DeepSeek"):
        ADAPTER.encode(request)


def test_an_answer_is_golden():
    usage = {
        "prompt_tokens": 563,
        "completion_tokens": 116,
        "total_tokens": 679,
        "prompt_cache_hit_tokens": 512,
        "prompt_cache_miss_tokens": 51,
        "prompt_tokens_details": {"cached_tokens": 512},
        "completion_tokens_details": {"reasoning_tokens": 60},
    }
    assert ADAPTER.decode(completion(**usage)) == ProviderAnswer(
        content="Hi",
        finish_reason="stop",
        usage=Usage(input_tokens=51, cached_input_tokens=512, output_tokens=56, reasoning_tokens=60),
        provider_request_id="d-1",
        parts=(Thinking("hm"), Text("Hi")),
    )


def test_hits_alone_tell_the_misses():
    decoded = ADAPTER.decode(completion(prompt_tokens=10, completion_tokens=5, prompt_cache_hit_tokens=4))
    assert decoded.usage == Usage(input_tokens=6, cached_input_tokens=4, output_tokens=5)


def test_without_its_own_counts_openais_are_used():
    decoded = ADAPTER.decode(
        completion(prompt_tokens=10, completion_tokens=5, prompt_tokens_details={"cached_tokens": 3})
    )
    assert decoded.usage == Usage(input_tokens=7, cached_input_tokens=3, output_tokens=5)


def test_more_hits_than_prompt_is_no_usage():
    assert ADAPTER.decode(completion(prompt_tokens=3, completion_tokens=5, prompt_cache_hit_tokens=4)).usage is None


def test_the_empty_lines_that_keep_the_connection_alive_are_skipped():
    kept_alive = completion(prompt_tokens=1, completion_tokens=1)
    kept_alive = WireResponse(status=200, headers={}, body=b"\n\n\r\n" + kept_alive.body)
    assert ADAPTER.decode(kept_alive).content == "Hi"


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "Authentication Fails"), (402, "Insufficient Balance"), (400, "Model Not Exist")],
)
def test_what_the_operator_has_to_mend_is_another_candidates_chance(status, text):
    with pytest.raises(Overloaded, match="operator") as caught:
        ADAPTER.decode(error(status, text))
    assert text not in str(caught.value)


def test_invalid_parameters_are_rejected_with_the_reason():
    with pytest.raises(Rejected, match="max_tokens is too large"):
        ADAPTER.decode(error(422, "max_tokens is too large"))


def test_an_error_within_a_200_is_free_unless_it_reports_usage():
    failed = {"message": "Server overloaded", "type": "server_error"}
    with pytest.raises(Overloaded):
        ADAPTER.decode(answer(error=failed))
    with pytest.raises(OutcomeUnknown, match="reported usage"):
        ADAPTER.decode(answer(error=failed, usage={"prompt_cache_hit_tokens": 512}))


def test_a_busy_server_is_overloaded():
    with pytest.raises(Overloaded):
        ADAPTER.decode(error(503, "Server overloaded"))
