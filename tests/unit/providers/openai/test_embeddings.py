import json
from typing import Any

import pytest

from tollhouse.errors import InternalError
from tollhouse.providers.base import OutcomeUnknown, Overloaded, Rejected, WireResponse
from tollhouse.providers.openai.embeddings import EmbeddingsDialect
from tollhouse.providers.usage import Usage

DIALECT = EmbeddingsDialect((("authorization", "Bearer sk-0123456789"),), "sk-0123456789")


def answer(status: int = 200, **body: Any) -> WireResponse:
    return WireResponse(status, {"x-request-id": "req_1"}, json.dumps(body).encode())


def test_a_request_is_passed_on_under_the_providers_name():
    body = {"model": "mine", "input": [[1, 2]], "dimensions": 7}
    wire = DIALECT.relay(body, model="text-embedding-3-small", stream=False, headers={})
    assert (wire.path, wire.headers) == ("/embeddings", (("authorization", "Bearer sk-0123456789"),))
    assert json.loads(wire.body) == {**body, "model": "text-embedding-3-small"}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 4, "total_tokens": 4}, Usage(input_tokens=4)),
        ({"total_tokens": 4}, Usage(input_tokens=4)),
        ({"prompt_tokens": 0, "total_tokens": 4}, Usage()),
        ({}, None),
        ({"prompt_tokens": -1}, None),
        ("many", None),
        (None, None),
    ],
)
def test_usage_is_input_and_never_costs_the_answer(usage, expected):
    decoded = DIALECT.decode(answer(data=[{"embedding": [0.5]}], usage=usage))
    assert (decoded.usage, decoded.content, decoded.provider_request_id) == (expected, "", "req_1")


def test_failures_are_those_of_any_call():
    with pytest.raises(OutcomeUnknown):
        DIALECT.decode(WireResponse(200, {}, b"<html>"))
    with pytest.raises(OutcomeUnknown):
        DIALECT.decode(answer(data=[]))
    with pytest.raises(OutcomeUnknown):
        DIALECT.decode(answer(error={"message": "busy"}, usage={"total_tokens": 1}))
    with pytest.raises(Overloaded):
        DIALECT.decode(answer(error={"message": "busy"}))
    with pytest.raises(Rejected, match=r"bad \[key\]"):
        DIALECT.decode(answer(400, error={"message": "bad sk-0123456789"}))


def test_there_is_nothing_to_stream():
    with pytest.raises(InternalError):
        DIALECT.stream_reader()
