"""Asks an ASGI application within this process: no socket, no HTTP."""

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

from tollhouse.apps.api import AsgiApp

_LOOPBACK = ("127.0.0.1", 0)


async def ask(app: AsgiApp, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the application's answer to one request.

    Args:
        target: the path, percent-encoded, with its query.
        headers: names in lower case.
    """
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": _LOOPBACK,
        "server": _LOOPBACK,
    }
    exchange = _Exchange(body)
    await app(scope, exchange.receive, exchange.send)
    return exchange.status, b"".join(exchange.parts)


class _Exchange:
    """The two ends of one request that an application is given."""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self.parts: list[bytes] = []
        self._unread: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> dict[str, Any]:
        return self._unread.pop() if self._unread else {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))
