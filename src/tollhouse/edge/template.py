"""Filling in the configurations' templates."""

from importlib.resources import files
from string import Template


class _ConfigurationTemplate(Template):
    """A template whose places begin with two ats, which neither nginx nor Envoy gives a meaning."""

    delimiter = "@@"


def fill(name: str, **values: object) -> str:
    """Return a template with its places filled in; an empty one leaves no line behind."""
    text = (files("tollhouse.edge") / "templates" / name).read_text(encoding="utf-8")
    kept = (line for line in text.splitlines() if values.get(line.strip().removeprefix("@@")) != "")
    return _ConfigurationTemplate("\n".join(kept) + "\n").substitute(values)


def indented(lines: str, spaces: int) -> str:
    """Return lines with spaces before each, for a place that stands at the beginning of its line."""
    return "\n".join(" " * spaces + line if line else "" for line in lines.splitlines())
