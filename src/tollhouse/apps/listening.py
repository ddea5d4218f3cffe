"""The sockets the API is reached at. It imports little, so that a taken port is found before all else is loaded."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from tollhouse.config import Config
from tollhouse.errors import StartError

_BACKLOG = 8192
_LOOPBACK = "127.0.0.1"


class Sockets(msgspec.Struct, frozen=True):
    """Where connections are accepted.

    Attributes:
        public: for callers.
        admin: for operators; None where they go where callers go.
        commands: for this machine's commands alone, which have no certificate to show and none to trust; None where
            they can do without.
        worker: for the worker of this process, as ``commands``.
    """

    public: socket.socket
    admin: socket.socket | None
    commands: socket.socket | None
    worker: socket.socket | None


@contextmanager
def listening(config: Config, *, runs_jobs: bool = False) -> Iterator[Sockets]:
    """Listen for as long as the context lasts; raises StartError when an address is taken or is not this machine's.

    Args:
        runs_jobs: whether a worker of this process is to reach it.
    """
    server = config.server
    with ExitStack() as stack:
        public = stack.enter_context(_listen(server.host, server.port, "[server] host, port, or --port"))
        admin = commands = worker = None
        if server.admin_port is not None:
            admin = stack.enter_context(
                _listen(server.admin_host, server.admin_port, "[server] admin_host, admin_port")
            )
        has_plain_way = server.tls_certificate is None or (admin is not None and not server.admin_tls)
        # On a server's database commands reach the data by themselves.
        if config.database.is_embedded and not has_plain_way:
            commands = stack.enter_context(_listen(_LOOPBACK, 0, "the loopback interface, for commands"))
        if runs_jobs and config.jobs.url is None and server.tls_certificate is not None:
            worker = stack.enter_context(_listen(_LOOPBACK, 0, "the loopback interface, for the worker"))
        yield Sockets(public, admin, commands, worker)


def _listen(host: str, port: int, keys: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; expected a free port of this machine ({keys})"
        ) from error


def url_of(listener: socket.socket, *, is_tls: bool = False) -> str:
    """Return the address a listening socket is reached under."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
