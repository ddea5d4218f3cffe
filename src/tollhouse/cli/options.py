"""What every command shares: the options that may stand before or after its name, and how failures are told."""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from tollhouse.errors import StartError, TollhouseError

if TYPE_CHECKING:
    from tollhouse.config import Config


@dataclass
class Options:
    """The options of a command line, and the environment it was given in."""

    config_file: Path | None = None
    as_json: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def config(self) -> "Config":
        """Load the configuration; raises StartError."""
        from tollhouse.config import load_config

        return load_config(self.config_file, self.environ)

    @property
    def file(self) -> Path:
        """The configuration file, which may not exist when none was named."""
        from tollhouse.config.load import DEFAULT_FILE

        return self.config_file or DEFAULT_FILE

    def config_source(self) -> str:
        """Say where the configuration comes from."""
        from tollhouse.config.load import DEFAULT_FILE

        if self.config_file is not None:
            return f"read from {self.config_file}"
        if DEFAULT_FILE.exists():
            return f"read from {DEFAULT_FILE}"
        return f"there is no {DEFAULT_FILE} here, so it is all defaults and TOLLHOUSE_… variables"


class Failure(click.ClickException):
    """A command's work was refused, which is told as ``tollhouse: error: …`` on standard error."""

    def show(self, file: IO[Any] | None = None) -> None:
        # Several problems of a configuration come as several lines, each an error of its own; indented ones go with
        # the line before them.
        for line in self.message.splitlines():
            click.echo(line if line.startswith(" ") else f"tollhouse: error: {line}", file=file, err=True)


class CannotStart(Failure):
    """A command could not do its work at all."""

    exit_code = 2


class Refused(Exception):
    """The service refused the operation; the text says why.

    Attributes:
        status: the HTTP status it would be, or was, refused with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _keep_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    options = context.ensure_object(Options)
    if value is not None:
        options.config_file = value


def _keep_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    options = context.ensure_object(Options)
    if value:
        options.as_json = True


def _common_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["-c", "--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_keep_config,
            help="The configuration; ./tollhouse.toml if left out, and there is one.",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_keep_json, help="Print JSON for programs."
        ),
    ]


class Command(click.Command):
    """A command that takes the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_options()


class Group(click.Group):
    """Commands under one name, before and after which the common options may stand."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_options()


class Root(Group):
    """All commands. What they cannot or may not do is told in a sentence, not in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StartError as error:
            raise CannotStart(str(error)) from error
        except Refused as error:
            raise Failure(str(error)) from error
        except TollhouseError as error:
            raise Failure(error.message) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                # Whoever read the output has seen enough; click ends the program silently.
                raise
            raise CannotStart(str(error)) from error


def listens(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that serves the options ``--host`` and ``--port``; see ``listening_where``."""
    port = click.option(
        "--port", type=click.IntRange(0, 65_535), help="The port to listen on, instead of the configured one; 0: any."
    )
    return click.option("--host", help="The address to listen on, instead of the configured one.")(port(command))


def listening_where(config: "Config", host: str | None, port: int | None) -> "Config":
    """Return a configuration with the address and port that the command line gives, as far as it does."""
    import msgspec

    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, **overrides))
