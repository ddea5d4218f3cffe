"""JSON Schemas in the subset that Anthropic enforces (https://platform.claude.com/docs/en/build-with-claude/structured-outputs)."""

from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest

_AS_THEY_ARE = frozenset({"type", "required", "enum", "const", "$ref", "title", "description", "default"})
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)
_MAPS = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf"})
# They describe the schema, and ask nothing of what follows it.
_OF_THE_SCHEMA = frozenset({"$schema", "$id", "$comment"})

_encode = msgspec.json.Encoder().encode


def enforceable(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a schema that Anthropic takes, whose every instance is one of the given schema or is told to be.

    Anthropic refuses objects that leave open whether they may have more properties, and most bounds on values. The
    former are closed; the latter are put into the description, as in Anthropic's own SDKs, where the model reads them.

    Raises:
        InvalidRequest: an object may have any keys at all, which Anthropic's models cannot be held to.
    """
    try:
        taken: dict[str, Any] = _part(schema, where)
    except RecursionError:
        raise InvalidRequest(f"{where}: nested too deeply") from None
    return taken


def _part(schema: Any, where: str) -> Any:
    if not isinstance(schema, dict):
        return schema
    taken: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _MAPS and isinstance(value, dict):
            taken[name] = {key: _part(each, where) for key, each in value.items()}
        elif name in _LISTS and isinstance(value, list):
            # Of several branches that fit, one is enough for the model to follow.
            taken["anyOf" if name == "oneOf" else name] = [_part(each, where) for each in value]
        elif name == "items":
            taken[name] = _part(value, where)
        elif name in _AS_THEY_ARE or _is_taken(name, value):
            taken[name] = value
        elif name != "additionalProperties" and name not in _OF_THE_SCHEMA:
            told[name] = value
    if _is_object(schema):
        takes_any = schema.get("additionalProperties", "properties" not in schema) is not False
        if takes_any and not schema.get("properties"):
            raise InvalidRequest(
                f"{where}: Anthropic's models answer in objects of named properties only, and one here names none"
            )
        taken["additionalProperties"] = False
    if told:
        note = _encode(told).decode()
        taken["description"] = f"{schema['description']}\n\n{note}" if schema.get("description") else note
    return taken


def _is_taken(name: str, value: Any) -> bool:
    if name == "format":
        return isinstance(value, str) and value in _FORMATS
    return name == "minItems" and value in (0, 1)


def _is_object(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return (
        kind == "object" or (isinstance(kind, list) and "object" in kind) or (kind is None and "properties" in schema)
    )
