"""The types of ``model`` read as a schema, for everything that walks them: the reader, the overrides, the docs test."""

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from tollhouse.config.model import Config
from tollhouse.config.section import Section

KeyPath = tuple[str, ...]
"""A key's full path, such as ``("models", "claude-haiku-4-5", "price", "input")``."""


@dataclass(frozen=True, slots=True)
class Value:
    """A single value."""

    annotation: Any
    bare: Any
    """The type without its bounds."""
    expected: str
    """Completes the sentence "expected …"."""
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...]
    """The only values there are, or none for a value that is not chosen from a list."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with fixed keys."""

    kind: type[Section]

    def fields(self) -> dict[str, msgspec.structs.FieldInfo]:
        return {field.name: field for field in msgspec.structs.fields(self.kind)}


@dataclass(frozen=True, slots=True)
class Names:
    """A table whose keys are names that the operator chooses."""

    name: Value
    entry: Table | Value


Node = Value | Table | Names
ROOT = Table(Config)


def node_of(annotation: Any) -> Node:
    """Return what a field's type says about the values it takes."""
    if get_origin(annotation) in {Union, UnionType}:
        # TOML has no null: a field that may be None is one that may be left out.
        return node_of(next(part for part in get_args(annotation) if part is not NoneType))
    if get_origin(annotation) is dict:
        name, entry = map(node_of, get_args(annotation))
        assert isinstance(name, Value)
        assert not isinstance(entry, Names)
        return Names(name, entry)
    if get_origin(annotation) is not Annotated:
        return Table(annotation)
    bare, meta = get_args(annotation)
    return Value(
        annotation=annotation,
        bare=bare,
        expected=meta.description,
        accepts=(meta.extra or {}).get("accepts", lambda _: True),
        choices=get_args(bare) if get_origin(bare) is Literal else (),
    )
