import json

import pytest

from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.embeddings import EmbeddingsApi
from tollhouse.errors import BudgetExceeded, InternalError, InvalidRequest
from tollhouse.providers.conversation import ProviderAnswer
from tollhouse.providers.usage import Usage

API = EmbeddingsApi()


@pytest.mark.parametrize("value", ["text", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_kind_of_input_is_taken_and_passed_on_as_it_is(value):
    body = {"model": "m", "input": value, "user": "u", "encoding_format": "base64"}
    asked = API.read(json.dumps(body).encode())
    assert (asked.model, asked.max_tokens, asked.is_stream, asked.user) == ("m", 0, False, "u")
    assert API.limited(asked, 0) == body


@pytest.mark.parametrize("value", [None, "", [], [1, "a"], [[]], [[1], "a"], [True], [-1], {"a": 1}, 7])
def test_other_inputs_are_refused(value):
    with pytest.raises(InvalidRequest, match=r"^input: expected"):
        API.read(json.dumps({"model": "m", "input": value}).encode())


def test_nothing_is_translated_or_written():
    asked = API.read(b'{"model": "m", "input": "x"}')
    with pytest.raises(InvalidRequest, match=r"^model: m is not served by a provider with OpenAI's embeddings API"):
        API.translated(asked, 0)
    head = AnswerHead("req_1", "m", 0)
    with pytest.raises(InternalError):
        API.answer(ProviderAnswer("", "stop", None), Usage(), head)
    with pytest.raises(InternalError):
        API.stream_writer(asked, head)


def test_errors_are_openais():
    assert json.loads(API.error(BudgetExceeded("spent"), "req_1")) == {
        "error": {"message": "spent", "type": "insufficient_quota", "param": None, "code": "ai_budget_exceeded"}
    }
