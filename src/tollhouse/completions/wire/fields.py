"""Reading a client's JSON field by field: what is wrong is told by the field's path, and by what was expected.

``where`` is the path of the object that holds a field, with its dot: ``messages[2].``. A null counts as left out.
"""

from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.kit.validation import decode_json, printable
from tollhouse.providers.conversation import CacheMark

MAX_MODEL = 256

_decoder = msgspec.json.Decoder(dict[str, Any])


def json_object(raw: bytes) -> dict[str, Any]:
    """Return a body's JSON object; raises InvalidRequest if it is none."""
    try:
        return decode_json(_decoder, raw)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def model_name(body: dict[str, Any]) -> str:
    """Return the model that a body names."""
    try:
        return printable("model", required_text(body, "model"), MAX_MODEL)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def text(body: dict[str, Any], name: str, where: str = "") -> str | None:
    """Return a text, if there is one."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{where}{name}: expected a string")
    return value


def required_text(body: dict[str, Any], name: str, where: str = "") -> str:
    """Return a text that has to be there and not to be empty."""
    value = text(body, name, where)
    if not value:
        raise InvalidRequest(f"{where}{name}: is required")
    return value


def flag(body: dict[str, Any], name: str, where: str = "") -> bool | None:
    """Return a boolean, if there is one."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{where}{name}: expected true or false")
    return value


def integer(body: dict[str, Any], name: str, low: int, high: int, where: str = "") -> int | None:
    """Return an integer within its bounds, if there is one."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{where}{name}: expected an integer from {low} to {high}")
    return value


def number(body: dict[str, Any], name: str, low: float, high: float, where: str = "") -> float | None:
    """Return a number within its bounds, if there is one."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRequest(f"{where}{name}: expected a number from {low:g} to {high:g}")
    return float(value)


def an_object(value: Any, where: str) -> dict[str, Any]:
    """Return a value that has to be an object; ``where`` is its own path here."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: expected an object")
    return value


def optional_object(body: dict[str, Any], name: str, where: str = "") -> dict[str, Any] | None:
    """Return an object, if there is one."""
    value = body.get(name)
    return None if value is None else an_object(value, f"{where}{name}")


def objects(body: dict[str, Any], name: str, where: str = "") -> list[dict[str, Any]]:
    """Return a list of objects; an empty one if there is none."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}{name}: expected a list")
    return [an_object(item, f"{where}{name}[{i}]") for i, item in enumerate(value)]


def cache_mark(body: dict[str, Any], where: str = "") -> CacheMark | None:
    """Return Anthropic's mark on a part or a tool, which clients of other formats may send as well."""
    mark = optional_object(body, "cache_control", where)
    if mark is None:
        return None
    ttl = text(mark, "ttl", f"{where}cache_control.")
    if mark.get("type") != "ephemeral" or ttl not in {None, "5m", "1h"}:
        raise InvalidRequest(f"{where}cache_control: expected type ephemeral, and a ttl of 5m or 1h at most")
    return "1h" if ttl == "1h" else "5m"
