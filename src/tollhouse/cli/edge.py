"""``tollhouse edge``: the configuration of an nginx or an Envoy in front of the service."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tollhouse.cli.options import Failure, Group, Options

if TYPE_CHECKING:
    from tollhouse.edge.settings import Settings

_CHECK_TIMEOUT_S = 30

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

# Each is a key of [edge] too, and goes before it.
_OPTIONS: Sequence[_Option] = (
    click.option(
        "--upstream", "upstreams", multiple=True, metavar="HOST:PORT", help="An instance of Tollhouse; may be repeated."
    ),
    click.option(
        "--feature-upstream",
        "feature_upstreams",
        multiple=True,
        metavar="FEATURE=HOST:PORT",
        help="An instance that takes a feature's requests; may be repeated.",
    ),
    click.option(
        "--events-upstream",
        "events_upstreams",
        multiple=True,
        metavar="HOST:PORT",
        help="A `tollhouse notifier`, which takes those who follow events; may be repeated.",
    ),
    click.option(
        "--server-name", "server_names", multiple=True, metavar="NAME", help="A host name to serve; may be repeated."
    ),
    click.option("--address", help="The IP address to listen on."),
    click.option("--https-port", type=int, help="The port for HTTPS."),
    click.option("--http-port", type=int, help="The port that leads to HTTPS, or with --plain-http serves; 0: none."),
    click.option("--plain-http", is_flag=True, default=None, help="Serve without TLS, behind something that ends it."),
    click.option("--certificate", metavar="FILE", help="The certificate and those that vouch for it, in PEM."),
    click.option("--certificate-key", metavar="FILE", help="Its private key, in PEM."),
    click.option(
        "--upstream-ca", metavar="FILE", help="Reach instances by TLS; the certificates that vouch for theirs, in PEM."
    ),
    click.option("--upstream-server-name", metavar="NAME", help="The DNS name in the certificates of all instances."),
    click.option("--upstream-certificate", metavar="FILE", help="The certificate to show to instances, in PEM."),
    click.option("--upstream-certificate-key", metavar="FILE", help="Its private key, in PEM."),
    click.option(
        "--trusted-proxy",
        "trusted_proxies",
        multiple=True,
        metavar="NETWORK",
        help="A proxy in front, whose word on the client's address is taken; may be repeated.",
    ),
    click.option("--read-timeout-s", type=int, help="How long an instance may send nothing."),
    click.option("--max-fails", type=int, help="After so many failures an instance gets no requests."),
    click.option("--fail-timeout-s", type=int, help="For how long it gets none."),
    click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file."),
    click.option("--check", is_flag=True, help="Have the program itself check it, before it is written."),
)


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(cls=Group)
def edge() -> None:
    """Write the configuration of an edge gateway.

    It stands in front of any number of instances, and is what callers reach. It ends TLS, asks Tollhouse whose each
    request is, holds tenants to their rate, spreads calls over the instances that are up, and never sends a call twice.
    What the options leave out comes from [edge], [limits] and [server].
    """


@edge.command()
@_with_options
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/log/nginx"),
    show_default=True,
    help="Where access and error log go.",
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where pid and temporary files go; nginx's own place."
)
@click.pass_obj
def nginx(
    options: Options, /, log_dir: Path, state_dir: Path | None, output: Path | None, check: bool, **given: object
) -> None:
    """Write the configuration of an nginx (open source, 1.19.4 or later)."""
    from tollhouse.edge.nginx import nginx_configuration

    text = nginx_configuration(
        _settings(options, given),
        log_directory=_plain("--log-dir", log_dir),
        state_directory=None if state_dir is None else _plain("--state-dir", state_dir),
    )
    if check:
        _check(text, ".conf", ["nginx", "-t", "-c"])
    _write(text, output)


@edge.command()
@_with_options
@click.option("--admin-port", type=click.IntRange(1, 65_535), help="The port of Envoy's own interface, on 127.0.0.1.")
@click.pass_obj
def envoy(options: Options, /, admin_port: int | None, output: Path | None, check: bool, **given: object) -> None:
    """Write the configuration of an Envoy (1.36 or later), in YAML."""
    from tollhouse.edge.envoy import envoy_configuration

    text = envoy_configuration(_settings(options, given), admin_port=admin_port)
    if check:
        _check(text, ".yaml", ["envoy", "--mode", "validate", "--log-level", "error", "-c"])
    _write(text, output)


def _settings(options: Options, given: dict[str, object]) -> "Settings":
    """Return the settings of the configuration, with what the options say in its place."""
    import msgspec

    from tollhouse.config import Edge
    from tollhouse.config.schema import Table, Value, node_of
    from tollhouse.edge.settings import settings_of

    config = options.config()
    fields = Table(Edge).fields()
    said = {name: value for name, value in given.items() if value not in {None, ()}}
    for name, value in said.items():
        node = node_of(fields[name].type)
        assert isinstance(node, Value)
        try:
            is_right = node.accepts(msgspec.convert(value, node.annotation))
        except msgspec.ValidationError:
            is_right = False
        if not is_right:
            shown = ", ".join(value) if isinstance(value, tuple) else value
            option = next(each for each in click.get_current_context().command.params if each.name == name)
            raise click.BadParameter(f"{shown!r}: expected {node.expected}", param=option)
    return settings_of(msgspec.structs.replace(config, edge=msgspec.structs.replace(config.edge, **said)))


def _plain(option: str, path: Path) -> Path:
    """Return a directory's path made absolute; raises BadParameter for one that a configuration cannot hold."""
    from tollhouse.config.rules import is_path

    absolute = path.absolute()
    if not is_path(str(absolute)):
        raise click.BadParameter(
            f"{str(path)!r}: expected a path of letters, digits and . _ / + @ = : , -", param_hint=option
        )
    return absolute


def _check(text: str, suffix: str, program: Sequence[str]) -> None:
    """Have the program that a configuration is for look at it; raises Failure with what it says."""
    where = shutil.which(program[0]) or shutil.which(
        program[0], path=f"{Path(sys.executable).parent}:/usr/sbin:/usr/local/sbin"
    )
    if where is None:
        raise Failure(f"--check: {program[0]} is not installed here")
    with tempfile.NamedTemporaryFile("w", suffix=suffix, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [where, *program[1:], file.name]
        told = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S, check=False)  # noqa: S603
    if told.returncode != 0:
        raise Failure(f"{program[0]} refuses it:\n" + "\n".join(f"  {line}" for line in told.stderr.splitlines()))


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
