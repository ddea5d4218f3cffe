"""The command itself: the model, the service before it, the walk through both, and the end of all three."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from tollhouse.errors import StartError

if TYPE_CHECKING:
    from tollhouse.cli.demo.screen import Screen

_HOST = "127.0.0.1"
_MODEL_TIMEOUT_S = 300.0
_SERVICE_TIMEOUT_S = 60.0

_CONFIGURATION = """\
[server]
port = {port}

[database]
url = "sqlite:///{database}"

[providers.local]                      # any server that speaks OpenAI's API
kind = "openai"
base_url = "{model_url}"

[models."smollm2-135m"]
provider = "local"
price = {{ input = 0.80, output = 4.00 }}  # USD per million tokens; made up, as the model costs nothing

[reports]
model = "smollm2-135m"
max_tokens = 200

[tiers.growth]
budget_usd = 10.00
"""


@click.command()
@click.option("--once", is_flag=True, help="Stop after the walk, instead of staying up until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="The service's port; any that is free if left out."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep configuration, database and logs here, instead of in a temporary directory.",
)
@click.pass_context
def demo(context: click.Context, once: bool, port: int, data_dir: Path | None) -> None:
    """Show the service at work, with a real model on this machine.

    No API key and no network: a small language model answers, a tenant, a feature and a key are made, calls go through
    gate, budget and ledger, and a report is made in the background. A page in your browser shows it again, live.
    """
    from tollhouse.cli.demo.model import model_file
    from tollhouse.cli.demo.screen import Screen

    weights = model_file()
    _expect_free(port)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with _directory(data_dir) as directory:
        _run(Screen(), context.find_root().command, weights, directory, port, once=once)


def _expect_free(port: int) -> None:
    """Tell of a port that is taken before anything is loaded; raises StartError."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        raise StartError(
            f"cannot listen on {_HOST}:{port}: {os.strerror(error.errno or 0)}; expected a free port of this machine "
            "(--port), or none, for any that is free"
        ) from error


def _leave(number: int, _frame: object) -> NoReturn:
    # As an exception, so that the children are stopped on the way out.
    sys.exit(128 + number)


@contextmanager
def _directory(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is None:
        with tempfile.TemporaryDirectory(prefix="tollhouse-demo-") as name:
            yield Path(name)
    else:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield data_dir.resolve()


def _run(screen: "Screen", tollhouse: click.Command, weights: Path, directory: Path, port: int, *, once: bool) -> None:
    from tollhouse.cli.demo.children import Child, own_environment, wait_while_running
    from tollhouse.cli.demo.walk import Walk

    environ = own_environment()
    screen.title("Tollhouse, with a real model on this machine: no API key, no network.")
    with ExitStack() as children:
        screen.step("The model: SmolLM2-135M, run by llama.cpp")
        arguments = ("tollhouse.cli.demo.model_server", str(weights))
        model = children.enter_context(Child("the model", arguments, environ, directory / "model.log"))
        waiting = screen.waiting("loading its 135 million weights")
        model_url = f"{model.wait_until_ready(_MODEL_TIMEOUT_S, waiting.tick)}/v1"
        waiting.done(f"it speaks OpenAI's API at {model_url}")

        screen.step("The service in front of it")
        file = directory / "tollhouse.toml"
        text = _CONFIGURATION.format(port=port, database=directory / "tollhouse.db", model_url=model_url)
        file.write_text(text, encoding="utf-8")
        screen.say(f"{file}:\n\n{text}")
        screen.command(f"cd {directory}")
        screen.command("tollhouse serve")
        arguments = ("tollhouse.cli.demo.service", "serve")
        service = children.enter_context(Child("the service", arguments, environ, directory / "service.log"))
        waiting = screen.waiting("starting")
        line = service.wait_until_ready(_SERVICE_TIMEOUT_S, waiting.tick)
        waiting.done(line)

        url = line.rpartition(" ")[2]
        walk = Walk(screen, tollhouse, file=file, database=directory / "tollhouse.db", url=url, environ=environ)
        walk.go()
        if once:
            return
        walk.tell_what_to_try()
        try:
            ended = wait_while_running((model, service))
        except KeyboardInterrupt:
            screen.say("\nstopping: calls in flight are finished first")
            return
        raise StartError(f"{ended.name} has ended by itself{ended.last_words()}")
