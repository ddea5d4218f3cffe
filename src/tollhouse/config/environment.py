"""Overrides from the environment: ``TOLLHOUSE_<SECTION>__<KEY>`` sets what the file would set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, get_args, get_origin

from tollhouse.config.problems import Problems, did_you_mean, listed
from tollhouse.config.schema import ROOT, KeyPath, Names, Node, Table, Value, node_of

_PREFIX = "TOLLHOUSE_"
_NOT_IN_VARIABLES = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class Override:
    """The text of an environment variable, in the place of the value that it sets."""

    variable: str
    text: str

    def typed(self, node: Value) -> Any:
        """Return the text as the type that TOML would have given it; text that is no such thing stays text."""
        try:
            if node.bare is bool:
                return {"true": True, "false": False}.get(self.text.lower(), self.text)
            if node.bare is int:
                return int(self.text)
            if node.bare in {float, Decimal}:
                return Decimal(self.text)
        except (ValueError, InvalidOperation):
            return self.text
        if get_origin(node.bare) is tuple:
            parts = [part.strip() for part in self.text.split(",")] if self.text.strip() else []
            return _whole(parts) if get_args(node.bare)[0] is int else parts
        return self.text


def _whole(parts: list[str]) -> list[Any]:
    return [int(part) if part.isascii() and part.isdigit() else part for part in parts]


def apply_overrides(tree: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> None:
    """Put an ``Override`` into the tree of raw values for each variable that sets one.

    Variables without a double underscore, such as TOLLHOUSE_ADMIN_KEY, are the operator's own.
    """
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or "__" not in variable.removeprefix("TOLLHOUSE"):
            continue
        path = _path(variable, tree, problems)
        if path is None:
            continue
        if path in problems.variables:
            problems.add_variable(variable, f"{problems.variables[path]} sets the same key: expected one of them")
            continue
        problems.variables[path] = variable
        _put(tree, path, Override(variable, environ[variable]))


def _path(variable: str, tree: dict[str, Any], problems: Problems) -> KeyPath | None:
    """Return the path of the key that a variable names; None, with the problem added, when there is none."""
    node: Node = ROOT
    raw: Any = tree
    path: KeyPath = ()
    for word in variable.removeprefix(_PREFIX).lower().split("__"):
        match node:
            case Table():
                fields = node.fields()
                if word not in fields:
                    expected = f"no such key: expected one of {listed(sorted(fields))}{did_you_mean(word, fields)}"
                    problems.add_variable(variable, expected)
                    return None
                name, node = word, node_of(fields[word].type)
            case Names():
                names = [name for name in raw if _as_word(name) == word] if isinstance(raw, dict) else []
                if len(names) > 1:
                    problems.add_variable(variable, f"names more than one of {listed(names)}: set it in the file")
                    return None
                name, node = (names or [word])[0], node.entry
            case Value():
                problems.add_variable(variable, f"no such key: {path[-1]} is a value, and has no keys")
                return None
        path = (*path, name)
        raw = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(node, Value):
        problems.add_variable(variable, f"names a table: expected one of its keys, as in {variable}__KEY")
        return None
    return path


def _as_word(name: str) -> str:
    """Return a name as variables can write it: ``gpt-4.1`` is ``gpt_4_1``."""
    return _NOT_IN_VARIABLES.sub("_", name.lower())


def _put(tree: Any, path: KeyPath, override: Override) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            # The file has a value where a table belongs; the reader reports it with its line.
            return
    tree[path[-1]] = override
