"""Whether an answer follows the JSON Schema of its request."""

from functools import lru_cache
from typing import Any, Protocol

import msgspec

from tollhouse.errors import InvalidRequest

_KEPT = 256


class Validator(Protocol):
    """A compiled schema."""

    def is_valid(self, instance: Any) -> bool: ...


@lru_cache(_KEPT)
def _compiled(schema: bytes) -> Validator:
    # Loaded by the first answer that is to be checked.
    import jsonschema_rs

    # A caller's schema may neither fetch what it refers to, nor make a pattern slow.
    return jsonschema_rs.validator_for(
        msgspec.json.decode(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions()
    )


def validator(schema: dict[str, Any]) -> Validator:
    """Return a schema's validator; raises InvalidRequest where it is none that can be checked."""
    try:
        return _compiled(msgspec.json.encode(schema))
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        # Its message may repeat parts of the schema, which is the caller's own.
        reason = str(error).splitlines()[0][:200] if str(error) else "it cannot be read"
        raise InvalidRequest(
            f"response_schema: expected a JSON Schema that answers can be checked by: {reason}"
        ) from None


def problem_of(text: str, schema: Validator) -> str | None:
    """Return what is wrong with an answer: ``not_json`` or ``not_valid``; None if nothing is."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "not_json"
    try:
        return None if schema.is_valid(value) else "not_valid"
    except ValueError:
        # Numbers beyond what the validator takes.
        return "not_valid"
