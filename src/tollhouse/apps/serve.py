"""Running the API process: its server, and a stop that lets calls in flight end."""

import asyncio
import contextlib
import functools
import gc
import math
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog
import uvicorn
from uvicorn.server import ServerState

from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.http_protocol import RequestBounds, api_protocol
from tollhouse.apps.tls import ServerTls
from tollhouse.config import Server
from tollhouse.kit.clock import Clock

_KEEP_ALIVE_S = 75
_COLLECT_AFTER_ALLOCATIONS = 20_000
# Clients of WebSockets have nothing to say here.
_SOCKET_MOST_BYTES = 4096
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long a connection over TLS that is closed here may take to send what waits, and for the other end to close too.
_TLS_CLOSE_TIMEOUT_S = 60.0
_LOG = structlog.get_logger("tollhouse.server")


class Listener(msgspec.Struct, frozen=True):
    """A socket that accepts connections, and what is served there.

    Attributes:
        app: serves everything but completion calls.
        is_secured: by TLS, where it is configured.
        takes_completions: whether calls are served there.
        endpoint: serves those calls, in place of the one for all listeners.
    """

    socket: socket.socket
    app: AsgiApp
    is_secured: bool = True
    takes_completions: bool = True
    endpoint: CompletionEndpoint | None = None


async def serve(
    listeners: Sequence[Listener],
    endpoint: CompletionEndpoint | None,
    server: Server,
    clock: Clock,
    *,
    ping_every_s: float,
    tls: ServerTls | None = None,
    when_ready: Callable[[], None] | None = None,
    when_stopping: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the calls in flight and return.

    Args:
        listeners: each has room for connections of its own.
        endpoint: serves completion calls; None where there are none.
        ping_every_s: how often clients of WebSockets are asked whether they are there; it keeps proxies waiting too.
        tls: None serves plain HTTP; SIGHUP has its files looked at.
        when_ready: called once, as soon as calls are accepted.
        when_stopping: called at the signal, to end what would go on for ever.
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
    ends = [_end(each, endpoint, bounds, server, clock, ping_every_s, tls) for each in listeners]
    running = _Server(ends, server.header_timeout_s, when_ready, when_stopping)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, running.stop)
    following = None
    if tls is not None:
        loop.add_signal_handler(signal.SIGHUP, tls.renew)
        following = asyncio.create_task(tls.follow())
    try:
        await running.serve(sockets=[each.socket for each in listeners])
    finally:
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)
        if following is not None:
            following.cancel()


class _End(msgspec.Struct, frozen=True):
    """A listener as the server serves it."""

    socket: socket.socket
    config: uvicorn.Config
    tls: ssl.SSLContext | None


def _end(
    listener: Listener,
    endpoint: CompletionEndpoint | None,
    bounds: RequestBounds,
    server: Server,
    clock: Clock,
    ping_every_s: float,
    tls: ServerTls | None,
) -> _End:
    config = uvicorn.Config(
        listener.app,
        http=api_protocol(listener.endpoint or endpoint, bounds, clock, takes_completions=listener.takes_completions),
        # Taken over by ``http_protocol`` where they are served, so that nobody else loads what they need.
        ws="none",
        ws_max_size=_SOCKET_MOST_BYTES,
        ws_ping_interval=ping_every_s,
        # Each compressor would cost more memory than all else of a client.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(server.stop_timeout_s),
    )
    return _End(listener.socket, config, tls.context if tls is not None and listener.is_secured else None)


class _Server(uvicorn.Server):
    """uvicorn, on several listeners at once, ended by our signal handlers.

    Its own handlers raise the signal again before anything else can be closed.
    """

    def __init__(
        self,
        ends: Sequence[_End],
        handshake_timeout_s: float,
        when_ready: Callable[[], None] | None,
        when_stopping: Callable[[], None] | None,
    ) -> None:
        # Of its configuration the server itself uses what is the same for all.
        super().__init__(ends[0].config)
        self._ends = ends
        self._handshake_timeout_s = handshake_timeout_s
        self._when_ready = when_ready
        self._when_stopping = when_stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - they are the ends'
        """Listen; uvicorn would serve one application, and bound no handshake."""
        loop = asyncio.get_running_loop()
        self.servers = []
        for end in self._ends:
            has_tls = end.tls is not None
            server = await loop.create_server(
                functools.partial(_protocol, end.config, self.server_state),
                sock=end.socket,
                backlog=end.config.backlog,
                ssl=end.tls,
                ssl_handshake_timeout=self._handshake_timeout_s if has_tls else None,
                ssl_shutdown_timeout=_TLS_CLOSE_TIMEOUT_S if has_tls else None,
            )
            self.servers.append(server)
        self.started = True
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
        if self._when_stopping is not None:
            self._when_stopping()


def _protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    """Return what a new connection is read by."""
    if not config.loaded:
        config.load()
    make: type[asyncio.Protocol] = config.http_protocol_class
    return make(config=config, server_state=state, app_state={})  # type: ignore[call-arg]


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
