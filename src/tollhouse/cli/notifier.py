"""``tollhouse notifier``: the process that tells events and sends webhooks, and nothing else."""

import sys
from typing import TYPE_CHECKING

import click

from tollhouse import __version__
from tollhouse.cli.options import Command, Options, listening_where, listens

if TYPE_CHECKING:
    from tollhouse.apps.listening import Sockets
    from tollhouse.config import Config, Secrets


@click.command(cls=Command)
@listens
@click.pass_obj
def notifier(options: Options, host: str | None, port: int | None) -> None:
    """Tell events and send webhooks, until SIGTERM or Ctrl-C.

    On PostgreSQL; `tollhouse serve` does so too. A process of its own keeps thousands of clients away from those that
    take calls. Any number of them may run.
    """
    import msgspec
    import uvloop

    from tollhouse.apps.listening import listening
    from tollhouse.config import resolve_secrets
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=options.as_json or not sys.stderr.isatty(), level="info")
    config = listening_where(options.config(), host, port)
    secrets = resolve_secrets(config, options.environ, providers=False)
    # It has no addresses for operators but what probes ask, and those are where its clients go.
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, admin_port=None))
    with listening(config) as sockets:
        uvloop.run(_serve(config, secrets, sockets))


async def _serve(config: "Config", secrets: "Secrets", sockets: "Sockets") -> None:
    import structlog

    from tollhouse.apps.listening import url_of
    from tollhouse.apps.serve import Listener
    from tollhouse.apps.serve import serve as serve_events
    from tollhouse.apps.tls import ServerTls, tls_settings
    from tollhouse.kit.clock import SystemClock
    from tollhouse.wiring.notifiers import open_notifier

    clock = SystemClock()
    settings = tls_settings(config.server)
    tls = None if settings is None else ServerTls(settings)
    log = structlog.get_logger("tollhouse.start")
    url = url_of(sockets.public, is_tls=tls is not None)
    async with open_notifier(config, secrets, clock) as opened:

        def tell() -> None:
            click.echo(f"Tollhouse {__version__} tells events; it serves at {url}")
            log.info("telling events", url=url, version=__version__)

        await serve_events(
            [Listener(sockets.public, opened.app, takes_completions=False)],
            None,
            config.server,
            clock,
            ping_every_s=config.events.heartbeat_s,
            tls=tls,
            when_ready=tell,
            when_stopping=opened.end_streams,
        )
    log.info("stopped")
