"""Checking what callers send: what is wrong is told by field, and by what was expected.

Everything here raises ValueError with a message fit for the caller; it names fields and never shows their values.
"""

import difflib
import re
from typing import Annotated, NoReturn, TypeVar

import msgspec
from msgspec import Meta, inspect

from tollhouse.kit.ids import MAX_INTEGER_ID

T = TypeVar("T")
N = TypeVar("N", bound=inspect.Type)

OutsideId = Annotated[int, Meta(ge=0, le=MAX_INTEGER_ID)] | Annotated[str, Meta(min_length=1, max_length=64)]
"""A tenant's or user's id: a JSON integer, or a string of up to 64 characters."""

MAX_ID = 64
MAX_SLUG = 128

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*?)`(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*?)`(?: - at `\$(?P<path>[^`]*)`)?")
_CHOICE = re.compile(r"Invalid enum value .* - at `\$(?P<path>[^`]*)`", re.DOTALL)
_LOCATED = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_NAME = re.compile(r"\.(\w+)")
_SHOWN_CHARACTERS = 64


def decode_json(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Decode a body.

    Raises:
        ValueError: it is no JSON, or a field is missing, unknown, of another type or out of range.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        _refuse(str(error), decoder.type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None


def printable(field: str, text: str, max_length: int) -> str:
    """Return a name or an id as it came; raises ValueError when it is empty, too long or not printable."""
    if not 0 < len(text) <= max_length or not text.isprintable():
        raise ValueError(f"{field}: expected 1 to {max_length} printable characters")
    return text


def _refuse(problem: str, model: object) -> NoReturn:
    """Turn msgspec's message into one that begins with the field."""
    if match := _UNKNOWN.fullmatch(problem):
        field = match["field"][:_SHOWN_CHARACTERS]
        known = _names_at(model, match["path"] or "")
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
        raise ValueError(f"{_place(match['path'], field)}: unknown field{hint}") from None
    if match := _MISSING.fullmatch(problem):
        raise ValueError(f"{_place(match['path'], match['field'])}: is required") from None
    if match := _CHOICE.fullmatch(problem):
        choices = ", ".join(map(str, _choices_at(model, match["path"])))
        raise ValueError(f"{_place(match['path'])}: expected one of {choices}") from None
    match = _LOCATED.fullmatch(problem)
    assert match is not None, "every text matches"
    what = match["what"][:1].lower() + match["what"][1:]
    raise ValueError(f"{_place(match['path']) or 'the body'}: {what}") from None


def _place(path: str | None, name: str = "") -> str:
    return ".".join(part for part in ((path or "").lstrip("."), name) if part)


def _names_at(model: object, path: str) -> tuple[str, ...]:
    """Return the fields of the object at a path such as ``.messages[0]`` in a body."""
    node = _within(_type_at(model, path), inspect.StructType)
    return () if node is None else tuple(field.encode_name for field in node.fields)


def _choices_at(model: object, path: str) -> tuple[object, ...]:
    """Return the values that may stand at a path such as ``.messages[0].role``."""
    node = _within(_type_at(model, path), inspect.LiteralType)
    return () if node is None else node.values


def _type_at(model: object, path: str) -> inspect.Type | None:
    node: inspect.Type | None = inspect.type_info(model)
    for name in _NAME.findall(path):
        parent = _within(node, inspect.StructType)
        fields = () if parent is None else parent.fields
        node = next((field.type for field in fields if field.encode_name == name), None)
    return node


def _within(node: inspect.Type | None, kind: type[N]) -> N | None:
    """Return the type of a kind that another is, lists or may be."""
    if isinstance(node, kind):
        return node
    if isinstance(node, inspect.Metadata):
        # A description for the documentation stands around the type.
        return _within(node.type, kind)
    if isinstance(node, inspect.ListType):
        return _within(node.item_type, kind)
    if isinstance(node, inspect.UnionType):
        return next((found for each in node.types if (found := _within(each, kind)) is not None), None)
    return None
