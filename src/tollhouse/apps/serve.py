"""Running the API process: its server, and a stop that lets calls in flight end."""

import asyncio
import contextlib
import gc
import math
import resource
import signal
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.http_protocol import RequestBounds, api_protocol
from tollhouse.config import Server
from tollhouse.kit.clock import Clock

_KEEP_ALIVE_S = 75
_COLLECT_AFTER_ALLOCATIONS = 20_000
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOG = structlog.get_logger("tollhouse.server")


async def serve(
    app: AsgiApp,
    endpoint: CompletionEndpoint,
    listener: socket.socket,
    server: Server,
    clock: Clock,
    *,
    when_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the calls in flight and return.

    Args:
        app: serves everything but completion calls.
        endpoint: serves completion calls.
        when_ready: called once, as soon as calls are accepted.
    """
    _raise_file_limit()
    bounds = RequestBounds(
        max_connections=server.max_connections,
        max_header_bytes=server.max_header_bytes,
        max_body_bytes=server.max_body_bytes,
        header_timeout_s=server.header_timeout_s,
        body_timeout_s=server.body_timeout_s,
        idle_timeout_s=_KEEP_ALIVE_S,
    )
    config = uvicorn.Config(
        app,
        http=api_protocol(endpoint, bounds, clock),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(server.stop_timeout_s),
    )
    running = _Server(config, when_ready)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, running.stop)
    try:
        await running.serve(sockets=[listener])
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn, ended by our signal handlers: its own raise the signal again before anything else can be closed."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._when_ready = when_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _spare_the_garbage_collector()
        if self._when_ready is not None:
            self._when_ready()

    def stop(self) -> None:
        """Take no new calls; a second signal gives up on those in flight."""
        if self.should_exit:
            self.force_exit = True
            return
        _LOG.info("stopping: calls in flight are finished first")
        self.should_exit = True


def _spare_the_garbage_collector() -> None:
    """Keep what was loaded at start out of every later collection, and collect less often.

    Calls leave no cycles behind, while each full collection would walk all modules again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_ALLOCATIONS, *gc.get_threshold()[1:])


def _raise_file_limit() -> None:
    """Allow as many sockets as the system lets this process have; the usual soft limit of 1024 is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
