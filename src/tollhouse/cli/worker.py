"""``tollhouse worker``: a process that runs jobs."""

import sys
from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.config import Config, Secrets


@click.command(cls=Command)
@click.pass_obj
def worker(options: Options) -> None:
    """Run jobs, until SIGTERM or Ctrl-C.

    Any number of workers share a PostgreSQL database. Each calls the service over HTTP, with the service key that
    [jobs] api_key names. Either signal lets what is under way end; what does not end in time goes to other workers. A
    second one returns everything at once. Of an embedded database, `tollhouse serve` runs the only worker.
    """
    import uvloop

    from tollhouse.config import resolve_secrets
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=options.as_json or not sys.stderr.isatty(), level="info")
    config = options.config()
    secrets = resolve_secrets(config, options.environ, providers=False, worker=True)
    uvloop.run(_work(config, secrets))


async def _work(config: "Config", secrets: "Secrets") -> None:
    import asyncio
    import os
    import signal

    import structlog

    from tollhouse import __version__
    from tollhouse.kit.clock import SystemClock
    from tollhouse.wiring.workers import open_worker, service_url

    log = structlog.get_logger("tollhouse.start")
    async with open_worker(config, secrets, SystemClock()) as worker:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, worker.stop)
        click.echo(f"Tollhouse {__version__} runs jobs by way of {service_url(config)}")
        log.info("working", url=service_url(config), version=__version__, pid=os.getpid())
        await worker.run()
    log.info("stopped")
