"""Raw values in, the typed tree out: every key is known, every value is of its type and in its bounds."""

import re
from contextlib import suppress
from decimal import Decimal
from typing import Any, Literal

import msgspec

from tollhouse.config.environment import Override
from tollhouse.config.problems import Problems, did_you_mean, listed
from tollhouse.config.schema import KeyPath, Names, Node, Table, Value, node_of
from tollhouse.config.values import SecretReference

_SECRET_SOURCES: dict[Literal["env", "file"], re.Pattern[str]] = {
    "env": re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)"),
    "file": re.compile(r"file:(/[^\x00-\x1f]+)"),
}


def read(node: Node, raw: Any, path: KeyPath, problems: Problems) -> Any:
    """Return the typed value of a raw one; None, with the problems added, when it has any."""
    match node:
        case Table():
            return _read_table(node, raw, path, problems)
        case Names():
            return _read_names(node, raw, path, problems)
        case Value() if node.bare is SecretReference:
            return _read_secret(node, raw, path, problems)
        case Value():
            return _read_value(node, raw, path, problems)


def _read_table(node: Table, raw: Any, path: KeyPath, problems: Problems) -> Any:
    if not isinstance(raw, dict):
        problems.wrong(path, raw, "a table")
        return None
    before = len(problems)
    fields = node.fields()
    for name in raw.keys() - fields.keys():
        # The value is not shown: it may be a secret under a misspelt key.
        guess = did_you_mean(name, fields)
        problems.add((*path, name), f": unknown key: expected one of {listed(sorted(fields))}{guess}")
    values = {}
    for name, field in fields.items():
        below = node_of(field.type)
        if name in raw:
            values[name] = read(below, raw[name], (*path, name), problems)
        elif field.required and isinstance(below, Value):
            problems.add(path, f': "{name}" is missing: expected {below.expected}')
    return node.kind(**values) if len(problems) == before else None


def _read_names(node: Names, raw: Any, path: KeyPath, problems: Problems) -> Any:
    if not isinstance(raw, dict):
        problems.wrong(path, raw, "a table")
        return None
    for name in raw:
        if not node.name.accepts(name):
            problems.add((*path, name), f": expected {node.name.expected}")
    return {name: read(node.entry, entry, (*path, name), problems) for name, entry in raw.items()}


def _read_value(node: Value, raw: Any, path: KeyPath, problems: Problems) -> Any:
    given = raw.typed(node) if isinstance(raw, Override) else raw
    # msgspec would take an amount in quotes, which the file's other numbers may not have either.
    if not (node.bare is Decimal and isinstance(given, str)):
        with suppress(msgspec.ValidationError):
            value = msgspec.convert(given, node.annotation)
            if node.accepts(value):
                return value
    problems.wrong(path, raw.text if isinstance(raw, Override) else raw, node.expected, node.choices)
    return None


def _read_secret(node: Value, raw: Any, path: KeyPath, problems: Problems) -> SecretReference | None:
    text = raw.text if isinstance(raw, Override) else raw
    for source, pattern in _SECRET_SOURCES.items():
        if isinstance(text, str) and (match := pattern.fullmatch(text)):
            return SecretReference(source=source, name=match[1], where=problems.place(path))
    if isinstance(raw, Override) and not raw.text.startswith(("env:", "file:")):
        # The variable holds the secret itself, so it is the variable that is referred to.
        return SecretReference(source="env", name=raw.variable, where=raw.variable)
    problems.add(path, f": expected {node.expected}")
    return None
