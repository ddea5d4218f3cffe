"""The socket the API is reached at. It imports little, so that a taken port is found before all else is loaded."""

import socket

from tollhouse.config import Server
from tollhouse.errors import StartError

_BACKLOG = 8192


def listen(server: Server) -> socket.socket:
    """Return a listening socket; raises StartError when the address is taken or is not this machine's."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"cannot listen on {server.host}:{server.port}: {error.strerror or error}; "
            "expected a free port of this machine ([server] host, port, or --port)"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Return the address a listening socket is reached under."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
