"""Google's JSON as clients write it: names in camelCase or snake_case, and one thing where a list may stand."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from tollhouse.completions.decoding import check_depth
from tollhouse.errors import InvalidRequest
from tollhouse.kit.validation import decode_json

_MAX_INT32 = 2**31 - 1
_SNAKE = re.compile(r"_([a-z0-9])")
_SHOWN_CHARACTERS = 64
_decoder = msgspec.json.Decoder(dict[str, Any])


def read_object(raw: bytes) -> dict[str, Any]:
    """Return a body; raises InvalidRequest where it is no JSON object, or is nested beyond reason."""
    try:
        body = decode_json(_decoder, raw)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    check_depth("the body", body)
    return body


def camel(name: str) -> str:
    """Return a name as Google's JSON has it; its servers read protobuf's own snake_case as well."""
    return _SNAKE.sub(lambda match: match[1].upper(), name)


def named(value: Any, where: str) -> dict[str, Any]:
    """Return an object with its names in camelCase, without what is null.

    Raises:
        InvalidRequest: it is no object, or has a field under both names.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where or 'the body'}: expected an object")
    found: dict[str, Any] = {}
    for name, each in value.items():
        if each is None:
            continue
        key = camel(name)
        if key in found:
            raise InvalidRequest(f"{_joined(where, key)}: is given twice, in camelCase and in snake_case")
        found[key] = each
    return found


def known(value: Any, where: str, names: Collection[str]) -> dict[str, Any]:
    """Return an object as ``named`` does; refuses, by name, what no translation knows."""
    found = named(value, where)
    unknown = [_joined(where, name[:_SHOWN_CHARACTERS]) for name in found if name not in names]
    if unknown:
        raise InvalidRequest(
            f"{', '.join(unknown[:5])}: cannot be translated for the model's provider, which speaks another format"
        )
    return found


def items(value: Any, where: str) -> list[Any]:
    """Return a list; like Google's servers, takes a single object for a list of one."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}: expected a list")
    return value


def text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    """Return a field that is a text, if it is there."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{_joined(where, name)}: expected a text")
    return value


def required_text(fields: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field that has to be a text, and not an empty one."""
    value = text(fields, name, where)
    if not value:
        raise InvalidRequest(f"{_joined(where, name)}: is required")
    return value


def number(fields: Mapping[str, Any], name: str, where: str) -> float | None:
    """Return a field that is a number, if it is there."""
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidRequest(f"{_joined(where, name)}: expected a number")
    return value


def integer(fields: Mapping[str, Any], name: str, where: str, least: int = -_MAX_INT32 - 1) -> int | None:
    """Return a field that is an integer of 32 bits, if it is there; 40.0 is one, as some SDKs write it."""
    value = number(fields, name, where)
    if value is None:
        return None
    if not least <= value <= _MAX_INT32 or value != int(value):
        raise InvalidRequest(f"{_joined(where, name)}: expected an integer from {least} to {_MAX_INT32}")
    return int(value)


def texts(fields: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return a field that is a list of texts; none where it is not there."""
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f"{_joined(where, name)}: expected a list of texts")
    return tuple(value)


def choice(fields: Mapping[str, Any], name: str, where: str, choices: Collection[str]) -> str | None:
    """Return a field that is one of some words, in upper case, if it is there."""
    value = text(fields, name, where)
    if value is None:
        return None
    if value.upper() not in choices:
        raise InvalidRequest(f"{_joined(where, name)}: expected one of {', '.join(choices)}")
    return value.upper()


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
