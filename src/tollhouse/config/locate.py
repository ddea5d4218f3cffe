"""On which line a key of a TOML text stands: the one thing that ``tomllib`` does not tell."""

import re
import tomllib
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<multiline> \"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} )
    | (?P<string>    "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<comment>   \#[^\n]* )
    | (?P<newline>   \n )
    | (?P<mark>      [\[\]{}=,.] )
    | (?P<space>     [ \t\r]+ )
    | (?P<bare>      [^\s\[\]{}=,."'\#]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_Token = tuple[str, str, int]
"""A token's kind, its text, and its line, counted from 1."""


def locate(text: str) -> dict[tuple[str, ...], int]:
    """Return the line, counted from 1, of each table and key of a valid TOML text, by its full path.

    Keys inside an inline table or an array are not listed: they stand in their enclosing key's value.
    A table that is only implied, as ``a`` is by ``[a.b]``, has the line that first implies it.
    """
    lines: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    for statement in _statements(text):
        is_header = statement[0][1] == "["
        path = _key(statement) if is_header else header + _key(statement)
        line = statement[0][2]
        for length in range(1, len(path)):
            lines.setdefault(path[:length], line)
        lines[path] = line
        if is_header:
            header = path
    return lines


def _statements(text: str) -> Iterator[list[_Token]]:
    """Yield the tokens of each header and each assignment, which end with the line unless a bracket is open."""
    statement: list[_Token] = []
    depth = 0
    for kind, word, line in _tokens(text):
        if kind == "newline" and depth == 0:
            if statement:
                yield statement
            statement = []
        elif kind not in {"newline", "comment", "space"}:
            statement.append((kind, word, line))
            if kind == "mark":
                depth += (word in "[{") - (word in "]}")
    if statement:
        yield statement


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        yield match.lastgroup or "", match.group(), line
        line += match.group().count("\n")


def _key(statement: list[_Token]) -> tuple[str, ...]:
    """Return the parts of the dotted key that a header names or an assignment sets."""
    parts = []
    for kind, word, _ in statement:
        if word in {"=", "]"}:
            break
        if kind == "bare":
            parts.append(word)
        elif kind == "string":
            # A quoted key is a TOML string, escapes included.
            parts.append(tomllib.loads(f"key = {word}")["key"])
    return tuple(parts)
