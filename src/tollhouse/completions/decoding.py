"""From the caller's bytes to a checked call; what is wrong is told by field, and by what was expected."""

from typing import Any

import msgspec

from tollhouse.completions.model import CompleteBody
from tollhouse.errors import InvalidRequest
from tollhouse.kit.validation import decode_json
from tollhouse.providers.conversation import Message

_decoder = msgspec.json.Decoder(CompleteBody)
_MAX_SCHEMA_DEPTH = 64


def decode_body(raw: bytes) -> CompleteBody:
    """Decode and check a body.

    Raises:
        InvalidRequest: it is no JSON, or a field is missing, unknown, of another type or out of range.
    """
    try:
        body = decode_json(_decoder, raw)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    check(body)
    return body


def check(body: CompleteBody) -> None:
    """Check what a type cannot say; raises InvalidRequest."""
    if (body.user_message is None) == (body.messages is None):
        raise InvalidRequest("user_message: expected either user_message or messages, and not both")
    if not f"{body.tenant_id}{body.user_id}{body.feature_slug}{body.model}".isprintable():
        raise InvalidRequest(f"{_unprintable(body)}: expected printable characters only")
    if body.response_schema is not None:
        check_depth("response_schema", body.response_schema)


def _unprintable(body: CompleteBody) -> str:
    names = ("tenant_id", "user_id", "feature_slug", "model")
    return next(name for name in names if not str(getattr(body, name)).isprintable())


def check_depth(field: str, value: Any) -> None:
    """Refuse a value nested more deeply than any real schema; raises InvalidRequest."""
    level: list[Any] = [value]
    for _ in range(_MAX_SCHEMA_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise InvalidRequest(f"{field}: is nested more than {_MAX_SCHEMA_DEPTH} levels deep")


def conversation(body: CompleteBody) -> tuple[Message, ...]:
    """Return the turns of a call, its system prompt first."""
    turns = [Message("system", body.system_prompt)] if body.system_prompt else []
    if body.user_message is not None:
        turns.append(Message("user", body.user_message))
    else:
        turns += [Message(turn.role, turn.content) for turn in body.messages or ()]
    return tuple(turns)


def stop_sequences(body: CompleteBody) -> tuple[str, ...]:
    """Return the stop sequences of a call."""
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
