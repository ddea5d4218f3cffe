"""Which JSON Schemas OpenAI enforces to the letter (https://platform.openai.com/docs/guides/structured-outputs)."""

from typing import Any

# OpenAI's limit has been 5, and 10 since; the lower one is safe with every model.
_DEEPEST = 5
# Its own limit is far below.
_MOST_LEVELS = 64
_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "title",
        "description",
    }
)
_SCALARS = frozenset({"string", "number", "integer", "boolean", "null"})


def is_strict(schema: dict[str, Any]) -> bool:
    """Tell whether a schema is surely within the subset that OpenAI takes as ``strict``.

    It errs on the side of no: a schema wrongly called strict is refused, one wrongly called loose is still followed,
    less firmly. Inside the subset every object names all its properties as required and allows no others.
    """
    return schema.get("type") == "object" and "anyOf" not in schema and _is_strict_part(schema, 1)


def is_loose(schema: Any, depth: int = 0) -> bool:
    """Tell whether OpenAI surely refuses a schema that is called strict.

    It does where an object leaves properties open, and where there are more levels than any real schema has.
    """
    if not isinstance(schema, dict):
        return False
    if depth > _MOST_LEVELS:
        return True
    properties, required = schema.get("properties"), schema.get("required")
    if schema.get("type") == "object" or isinstance(properties, dict):
        named = properties if isinstance(properties, dict) else {}
        required = required if isinstance(required, list) else []
        if schema.get("additionalProperties") is not False or any(name not in required for name in named):
            return True
    inner = [schema.get("items")]
    for name in ("properties", "$defs"):
        inner += schema[name].values() if isinstance(schema.get(name), dict) else ()
    inner += schema["anyOf"] if isinstance(schema.get("anyOf"), list) else ()
    return any(is_loose(part, depth + 1) for part in inner)


def _is_strict_part(schema: Any, depth: int) -> bool:
    if not isinstance(schema, dict) or depth > _DEEPEST or not schema.keys() <= _KEYWORDS:
        return False
    if "anyOf" in schema:
        branches = schema["anyOf"]
        return (
            isinstance(branches, list)
            and len(branches) > 0
            and all(_is_strict_part(branch, depth + 1) for branch in branches)
        )
    kind = schema.get("type")
    if kind == "object":
        return _is_strict_object(schema, depth)
    if kind == "array":
        return _is_strict_part(schema.get("items"), depth + 1)
    return isinstance(kind, str) and kind in _SCALARS


def _is_strict_object(schema: dict[str, Any], depth: int) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    return (
        schema.get("additionalProperties") is False
        and all(isinstance(name, str) for name in required)
        and set(required) == set(properties)
        and all(_is_strict_part(part, depth + 1) for part in properties.values())
    )
