"""``tollhouse serve``: the API process."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from tollhouse import __version__
from tollhouse.cli.options import Command, Options, listening_where, listens

if TYPE_CHECKING:
    from tollhouse.apps.api import AsgiApp
    from tollhouse.apps.listening import Sockets
    from tollhouse.apps.serve import Listener
    from tollhouse.config import Config, Secrets
    from tollhouse.kit.clock import Clock
    from tollhouse.wiring.service import Service


@click.command(cls=Command)
@listens
@click.pass_obj
def serve(options: Options, host: str | None, port: int | None) -> None:
    """Serve the API, until SIGTERM or Ctrl-C.

    Either lets the calls in flight end. The first line on standard output tells that it serves, and where. Logs go to
    standard error: in columns on a terminal, otherwise, or with --json, as one JSON object a line.
    """
    run(options, host=host, port=port)


def run(
    options: Options,
    front: "Callable[[Service], AsgiApp] | None" = None,
    *,
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Serve until a signal ends it; raises StartError.

    Args:
        front: makes what answers in the place of the service's own application, which it may pass requests on to.
    """
    import uvloop

    from tollhouse.apps.listening import listening
    from tollhouse.cli.session import outlast_commands
    from tollhouse.config import resolve_secrets
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=options.as_json or not sys.stderr.isatty(), level="info")
    config = listening_where(options.config(), host, port)
    secrets = resolve_secrets(config, options.environ, worker=True)
    # Bound before the database is opened: a port that is taken is found at once, and callers wait instead of failing.
    with listening(config, runs_jobs=config.serves_jobs) as sockets:
        outlast_commands(lambda: uvloop.run(_serve(options, config, secrets, sockets, front)))


async def _serve(
    options: Options,
    config: "Config",
    secrets: "Secrets",
    sockets: "Sockets",
    front: "Callable[[Service], AsgiApp] | None",
) -> None:
    import asyncio
    import os

    import structlog

    from tollhouse.apps.catalogue import compile_configured
    from tollhouse.apps.listening import url_of
    from tollhouse.apps.tls import ServerTls, tls_settings
    from tollhouse.kit.clock import SystemClock

    clock = SystemClock()
    settings = tls_settings(config.server)
    tls = None if settings is None else ServerTls(settings)
    # A child process compiles the prices while this one loads what follows, which takes it as long.
    catalogue = asyncio.create_task(compile_configured(config, clock))
    await asyncio.sleep(0)

    from tollhouse.apps.serve import serve as serve_api
    from tollhouse.storage.lock import Owner
    from tollhouse.wiring.service import open_service

    log = structlog.get_logger("tollhouse.start")
    url = url_of(sockets.public, is_tls=tls is not None)
    admin_url = "" if sockets.admin is None else url_of(sockets.admin, is_tls=_admin_tls(config))
    commands_url = admin_url if sockets.commands is None else url_of(sockets.commands)
    async with open_service(config, secrets, options.environ, catalogue, clock, options.file) as service:
        app = service.app if front is None else front(service)

        def tell() -> None:
            # From here on, other commands find this process and ask it.
            service.describe(Owner(os.getpid(), url, service.operator_token, commands_url))
            service.begin_work(url if sockets.worker is None else url_of(sockets.worker))
            click.echo(f"Tollhouse {__version__} serves at {url}")
            if admin_url:
                click.echo(f"Its administration is at {admin_url}")
            log.info("serving", url=url, admin_url=admin_url or url, version=__version__, pid=os.getpid())

        listeners = _listeners(config, sockets, app, service, clock)
        await serve_api(
            listeners,
            service.endpoint,
            config.server,
            clock,
            ping_every_s=config.events.heartbeat_s,
            tls=tls,
            when_ready=tell,
            when_stopping=service.end_streams,
        )
    log.info("stopped")


def _admin_tls(config: "Config") -> bool:
    return config.server.tls_certificate is not None and config.server.admin_tls


def _listeners(
    config: "Config", sockets: "Sockets", app: "AsgiApp", service: "Service", clock: "Clock"
) -> "list[Listener]":
    """Return what is served at each of the sockets; ``app`` is what callers and operators get."""
    from tollhouse.apps.audiences import for_callers_only, for_commands_only, for_nobody
    from tollhouse.apps.serve import Listener

    if sockets.admin is None:
        listeners = [Listener(sockets.public, app)]
    else:
        listeners = [
            Listener(sockets.public, for_callers_only(app, clock)),
            Listener(sockets.admin, app, is_secured=_admin_tls(config), takes_completions=False),
        ]
    if sockets.commands is not None:
        for_commands = for_commands_only(app, service.operator_token, clock)
        listeners.append(Listener(sockets.commands, for_commands, is_secured=False, takes_completions=False))
    if sockets.worker is not None:
        listeners.append(
            Listener(sockets.worker, for_nobody(clock), is_secured=False, endpoint=service.worker_endpoint)
        )
    return listeners
