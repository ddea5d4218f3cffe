"""How the demo speaks: numbered steps, and under each what was asked and what came of it."""

import sys
from collections.abc import Sequence
from http import HTTPStatus
from itertools import cycle

import click
import msgspec

from tollhouse.cli.output import table

_INDENT = "   "
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Standard output, as a story."""

    def __init__(self) -> None:
        self._step = 0

    def title(self, text: str) -> None:
        click.secho(text, bold=True)

    def step(self, title: str) -> None:
        self._step += 1
        click.echo()
        click.secho(f"{self._step}. {title}", bold=True)

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            click.echo(f"{_INDENT}{line}".rstrip())

    def link(self, url: str) -> None:
        click.echo(_INDENT + click.style(url, fg="cyan", bold=True, underline=True))

    def command(self, text: str) -> None:
        """Show a command, as a person would type it."""
        click.echo(_INDENT + click.style(f"$ {text}", fg="cyan"))

    def request(self, line: str, body: bytes | None) -> None:
        """Show an HTTP request, with its JSON body where there is one to show."""
        click.echo(_INDENT + click.style(f"→ {line}", fg="cyan"))
        if body is not None:
            self.say(msgspec.json.format(body, indent=2).decode())

    def answer(self, status: int, elapsed_s: float, body: bytes) -> None:
        """Show what came back."""
        self.status(status, elapsed_s)
        self.say(msgspec.json.format(body, indent=2).decode())

    def status(self, status: int, elapsed_s: float) -> None:
        """Show how a request ended."""
        color = "green" if status < HTTPStatus.BAD_REQUEST else "yellow"
        line = f"← {status} {HTTPStatus(status).phrase} (after {elapsed_s:.2f} s)"
        click.echo(_INDENT + click.style(line, fg=color))

    def rows(self, headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        for line in table(headings, cells):
            self.say(line)

    def waiting(self, what: str = "") -> "Waiting":
        """Begin to wait; nothing is said of it but on a terminal where there is no word for it."""
        return Waiting(what, is_terminal=sys.stdout.isatty())


class Waiting:
    """Something that takes its time: a spinner and the seconds on a terminal, and elsewhere a line."""

    def __init__(self, what: str, *, is_terminal: bool) -> None:
        self._what = what
        self._is_terminal = is_terminal
        self._spinner = cycle(_SPINNER)
        self._elapsed_s = 0.0
        if what and not is_terminal:
            click.echo(f"{_INDENT}{what} …")

    def tick(self, elapsed_s: float) -> None:
        """Show that it goes on."""
        self._elapsed_s = elapsed_s
        if self._is_terminal:
            what = self._what and f"{self._what} … "
            click.echo(f"{_CLEAR_LINE}{_INDENT}{next(self._spinner)} {what}{elapsed_s:.1f} s", nl=False)

    def done(self, text: str) -> None:
        """Show that it is over."""
        line = f"{_INDENT}{text} (after {self._elapsed_s:.1f} s)"
        click.echo(f"{_CLEAR_LINE}{line}" if self._is_terminal else line)
