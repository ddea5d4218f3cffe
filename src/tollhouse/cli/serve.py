"""``tollhouse serve``: the API process."""

import socket
import sys
from typing import TYPE_CHECKING

import click

from tollhouse import __version__
from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.config import Config, Secrets


@click.command(cls=Command)
@click.option("--host", help="The address to listen on, instead of the configured one.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="The port to listen on, instead of the configured one; 0: any."
)
@click.pass_obj
def serve(options: Options, host: str | None, port: int | None) -> None:
    """Serve the API, until SIGTERM or Ctrl-C.

    Either lets the calls in flight end. The first line on standard output tells that it serves, and where. Logs go to
    standard error: in columns on a terminal, otherwise, or with --json, as one JSON object a line.
    """
    import msgspec
    import uvloop

    from tollhouse.apps.listening import listen
    from tollhouse.cli.session import outlast_commands
    from tollhouse.config import resolve_secrets
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=options.as_json or not sys.stderr.isatty(), level="info")
    config = options.config()
    secrets = resolve_secrets(config, options.environ)
    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, **overrides))
    # Bound before the database is opened: a port that is taken is found at once, and callers wait instead of failing.
    with listen(config.server) as listener:
        outlast_commands(lambda: uvloop.run(_serve(options, config, secrets, listener)))


async def _serve(options: Options, config: "Config", secrets: "Secrets", listener: socket.socket) -> None:
    import asyncio
    import os

    import structlog

    from tollhouse.apps.catalogue import compile_configured
    from tollhouse.apps.listening import url_of
    from tollhouse.kit.clock import SystemClock

    clock = SystemClock()
    # A child process compiles the prices while this one loads what follows, which takes it as long.
    catalogue = asyncio.create_task(compile_configured(config, clock))
    await asyncio.sleep(0)

    from tollhouse.apps.serve import serve as serve_api
    from tollhouse.storage.lock import Owner
    from tollhouse.wiring import open_service

    log = structlog.get_logger("tollhouse.start")
    url = url_of(listener)
    async with open_service(config, secrets, options.environ, catalogue, clock, options.file) as service:

        def tell() -> None:
            # From here on, other commands find this process and ask it.
            service.describe(Owner(os.getpid(), url, service.operator_token))
            click.echo(f"Tollhouse {__version__} serves at {url}")
            log.info("serving", url=url, version=__version__, pid=os.getpid())

        await serve_api(service.app, service.endpoint, listener, config.server, clock, when_ready=tell)
    log.info("stopped")
