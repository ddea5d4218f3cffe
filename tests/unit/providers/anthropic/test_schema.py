"""What Anthropic enforces of a JSON Schema: its objects are closed, and what is not enforced is told to the model."""

import json
from typing import Any

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.schema import enforceable
from tollhouse.providers.conversation import Message, ProviderRequest, Tool
from tollhouse.providers.registry import adapter_for

ADAPTER = adapter_for("anthropic", base_url="https://a.example.com", api_key="")
NAMED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**NAMED, "additionalProperties": False}


def test_a_schema_that_is_taken_stays_as_it_is():
    schema = {
        "type": "object",
        "properties": {
            "a": {"anyOf": [{"type": "string", "format": "date"}, {"$ref": "#/$defs/b"}]},
            "minimum": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        },
        "$defs": {"b": CLOSED},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert enforceable(schema, "s") == schema


@pytest.mark.parametrize("more", [{}, {"additionalProperties": True}, {"additionalProperties": {"type": "string"}}])
def test_objects_are_closed_wherever_they_stand(more):
    open_one = {**NAMED, **more}
    places = {
        "properties": {"b": open_one, "c": {"type": "array", "items": open_one}},
        "$defs": {"d": open_one},
        "anyOf": [open_one],
    }
    assert enforceable({**open_one, **places}, "s") == {
        **CLOSED,
        "properties": {"b": CLOSED, "c": {"type": "array", "items": CLOSED}},
        "$defs": {"d": CLOSED},
        "anyOf": [CLOSED],
    }


def test_one_of_becomes_any_of():
    assert enforceable({"oneOf": [NAMED, {"type": "null"}]}, "s") == {"anyOf": [CLOSED, {"type": "null"}]}


def test_bounds_are_told_in_the_description():
    schema = {"type": "integer", "minimum": 1, "description": "How many"}
    assert enforceable(schema, "s") == {"type": "integer", "description": 'How many\n\n{"minimum":1}'}
    assert enforceable({"type": "string", "format": "byte"}, "s") == {
        "type": "string",
        "description": '{"format":"byte"}',
    }
    assert enforceable({"type": "array", "minItems": 2}, "s") == {"type": "array", "description": '{"minItems":2}'}


def test_what_describes_the_schema_itself_is_left_out():
    assert enforceable({"$schema": "https://json-schema.org/draft/2020-12/schema", **CLOSED}, "s") == CLOSED


@pytest.mark.parametrize("kind", ["object", ["object", "null"]])
@pytest.mark.parametrize(
    "more", [{}, {"additionalProperties": {"type": "string"}}, {"properties": {}, "additionalProperties": True}]
)
def test_an_object_of_any_keys_is_refused_by_name(kind, more):
    with pytest.raises(InvalidRequest, match=r"^response_schema: .* named properties only"):
        encoded(response_schema={**CLOSED, "properties": {"a": {"type": kind, **more}}})


def test_a_schema_without_end_is_refused():
    schema: dict[str, Any] = {}
    for _ in range(10_000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match=r"^s: nested"):
        enforceable(schema, "s")


def test_an_answers_schema_and_a_strict_tools_are_closed():
    body = encoded(response_schema=NAMED, tools=(Tool("f", parameters=NAMED, is_strict=True),))
    assert body["output_config"]["format"]["schema"] == CLOSED
    assert body["tools"] == [{"name": "f", "input_schema": CLOSED, "strict": True}]


def test_a_strict_tool_that_cannot_be_enforced_is_offered_as_it_is():
    body = encoded(tools=(Tool("f", parameters={"type": "object"}, is_strict=True),))
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]


def test_a_tool_that_is_not_strict_stays_as_it_is():
    assert encoded(tools=(Tool("f", parameters=NAMED),))["tools"] == [{"name": "f", "input_schema": NAMED}]


def encoded(**asked):
    request = ProviderRequest(model="m", messages=(Message("user", "hi"),), max_tokens=9, **asked)
    return json.loads(ADAPTER.encode(request).body)
