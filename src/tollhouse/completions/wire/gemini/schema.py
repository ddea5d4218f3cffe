"""From Google's Schema, a subset of OpenAPI 3.0, to JSON Schema (https://ai.google.dev/api/caching#Schema)."""

from typing import Any

from tollhouse.completions.wire.gemini.fields import items, known, texts
from tollhouse.errors import InvalidRequest

_TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
# Which mean in JSON Schema what they mean here.
_AS_THEY_ARE = ("format", "title", "description", "default", "pattern", "minimum", "maximum")
# Counts, which protobuf's JSON writes as texts, being integers of 64 bits.
_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")
_SCHEMAS = ("items", "additionalProperties")
_OWN = ("type", "nullable", "enum", "example", "properties", "required", "anyOf", "propertyOrdering")
_KNOWN = frozenset((*_AS_THEY_ARE, *_COUNTS, *_SCHEMAS, *_OWN))
# JSON Schema's own, which Google's SDKs pass on where they are given a schema of Pydantic's or the like.
_REFERENCES = ("$ref", "$defs", "ref", "defs")


def json_schema(value: Any, where: str) -> dict[str, Any]:
    """Translate a schema.

    Raises:
        InvalidRequest: by name, for what is malformed or unknown.
    """
    if isinstance(value, dict) and (reference := next((name for name in _REFERENCES if name in value), None)):
        raise InvalidRequest(f"{where}.{reference}: references are for a JSON Schema; expected one without")
    fields = known(value, where, _KNOWN)
    schema: dict[str, Any] = {name: fields[name] for name in _AS_THEY_ARE if name in fields}
    if "type" in fields:
        schema["type"] = _type(fields["type"], where)
    for name in _COUNTS:
        if name in fields:
            schema[name] = _count(fields[name], f"{where}.{name}")
    if "enum" in fields:
        schema["enum"] = list(texts(fields, "enum", where))
    if "example" in fields:
        schema["examples"] = [fields["example"]]
    for name in _SCHEMAS:
        if name in fields:
            is_flag = name == "additionalProperties" and isinstance(fields[name], bool)
            schema[name] = fields[name] if is_flag else json_schema(fields[name], f"{where}.{name}")
    if "properties" in fields:
        schema["properties"] = _properties(fields, where)
    if "required" in fields:
        schema["required"] = list(texts(fields, "required", where))
    if "anyOf" in fields:
        schema["anyOf"] = [
            json_schema(each, f"{where}.anyOf[{i}]") for i, each in enumerate(items(fields["anyOf"], f"{where}.anyOf"))
        ]
    return _nullable(schema) if fields.get("nullable") is True else schema


def _type(value: Any, where: str) -> str | list[str]:
    if isinstance(value, list) and value:
        return [_one_type(each, where) for each in value]
    return _one_type(value, where)


def _one_type(value: Any, where: str) -> str:
    if not isinstance(value, str) or value.upper() not in _TYPES:
        raise InvalidRequest(f"{where}.type: expected one of {', '.join(_TYPES)}")
    return value.lower()


def _count(value: Any, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidRequest(f"{where}: expected an integer of at least 0")


def _properties(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an object's properties, in the order that is asked for."""
    properties = fields["properties"]
    if not isinstance(properties, dict):
        raise InvalidRequest(f"{where}.properties: expected an object")
    ordering = texts(fields, "propertyOrdering", where)
    first = [name for name in dict.fromkeys(ordering) if name in properties]
    order = first + [name for name in properties if name not in first]
    return {name: json_schema(properties[name], f"{where}.properties.{name[:64]}") for name in order}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that null fits as well."""
    widened = dict(schema)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        widened["type"] = kinds if "null" in kinds else [*kinds, "null"]
    if "enum" in schema:
        widened["enum"] = [*schema["enum"], None]
    if "anyOf" in schema and {"type": "null"} not in schema["anyOf"]:
        widened["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    return widened
