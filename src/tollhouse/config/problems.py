"""What is wrong with a configuration, collected: one start tells all, each with its place and what was expected."""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from tollhouse.config.schema import ROOT, KeyPath, Names, node_of
from tollhouse.errors import StartError

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_LINE = 1 << 62
_SHOWN_CHARACTERS = 80
_SHOWN_NAMES = 20


class Problems:
    """The problems found so far, and where each value comes from.

    Attributes:
        file: the configuration file's name as the operator gave it; None when there is no file.
        lines: the line of each key of the file.
        variables: the environment variable that sets a key, by the key's path.
    """

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.variables: dict[KeyPath, str] = {}
        self._found: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: KeyPath, text: str) -> None:
        """Add a problem with the key at ``path``; ``text`` continues the sentence after the key."""
        line = _NO_LINE if path in self.variables else self._line(path) or _NO_LINE
        self._found.append((line, self.place(path) + text))

    def add_variable(self, variable: str, text: str) -> None:
        """Add a problem with an environment variable that names no key."""
        self._found.append((_NO_LINE, f"{variable}: {text}"))

    def wrong(self, path: KeyPath, value: object, expected: str, choices: Iterable[str] = ()) -> None:
        """Add a value that is not what was expected. Not for secrets: the message shows the value."""
        guess = did_you_mean(value, choices) if isinstance(value, str) else ""
        self.add(path, f"{_shown(value)}: expected {expected}{guess}")

    def raise_if_any(self) -> None:
        """Raise StartError with one line for each problem, in the order of the file."""
        if self._found:
            raise StartError("\n".join(text for _, text in sorted(self._found, key=lambda found: found[0])))

    def place(self, path: KeyPath) -> str:
        """Return where a key is set: ``tollhouse.toml:7: [server] port``, or its environment variable."""
        if path in self.variables:
            return self.variables[path]
        if path not in self.lines:
            # A table that only the environment makes stands where its first variable says so.
            for below, variable in self.variables.items():
                if below[: len(path)] == path:
                    return f"{variable}: {_label(path)}"
        where = [part for part in (self.file, self._line(path)) if part is not None]
        return "".join(f"{part}:" for part in where) + f" {_label(path)}" if where else _label(path)

    def _line(self, path: KeyPath) -> int | None:
        known = (path[:length] for length in range(len(path), 0, -1) if path[:length] in self.lines)
        return next((self.lines[part] for part in known), None)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean "…"?`` for the choice that a word seems to misspell, or nothing."""
    close = get_close_matches(word[:_SHOWN_CHARACTERS], list(choices), n=1)
    return f"; did you mean {_quoted(close[0])}?" if close else ""


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first of them when there are many."""
    more = ", …" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _label(path: KeyPath) -> str:
    """Return a path as the file writes it: ``[models."gpt-4.1"] price.input``."""
    field = ROOT.fields().get(path[0])
    depth = 2 if field and isinstance(node_of(field.type), Names) else 1
    header, key = _dotted(path[:depth]), _dotted(path[depth:])
    return f"[{header}] {key}".rstrip()


def _dotted(path: KeyPath) -> str:
    return ".".join(part if _BARE_KEY.fullmatch(part) else _quoted(part) for part in path)


def _quoted(text: str) -> str:
    short = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def _shown(value: object) -> str:
    """Return `` = <value>`` as the file writes it, or nothing for text that may hold credentials."""
    match value:
        case str():
            return "" if "@" in value or "?" in value else f" = {_quoted(value)}"
        case bool():
            return f" = {str(value).lower()}"
        case int() if value.bit_length() > 64:
            # Also because Python refuses to write out integers of thousands of digits.
            return " = a number of more than 64 bits"
        case list():
            return " = an array"
        case dict():
            return " = a table"
        case _:
            return f" = {str(value)[:_SHOWN_CHARACTERS]}"
