"""The WebSocket protocol of one connection, which takes it over from HTTP. It is imported when somebody first asks."""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from tollhouse.apps.events import ABORT


class EventSocket(WebSocketsSansIOProtocol):
    """uvicorn's, on the websockets library, with a way to hang up on a client that does not read.

    Args:
        when_lost: called once the connection is no more.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        when_lost: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._when_lost = when_lost

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_complete:
            return
        self.scope["extensions"] = {**(self.scope["extensions"] or {}), ABORT: self.transport.abort}  # type: ignore[dict-item]

    def handle_text(self, event: Frame) -> None:
        """Say nothing of what a client says; it would be left to wait, and the next thing not be read."""

    def handle_bytes(self, event: Frame) -> None:
        """As text."""

    def handle_cont(self, event: Frame) -> None:
        """As text."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._when_lost()


def take_over(
    transport: asyncio.Transport, config: uvicorn.Config, state: ServerState, head: bytes, when_lost: Callable[[], None]
) -> None:
    """Have a connection speak WebSocket from now on, beginning with a request's head and what followed it."""
    protocol = EventSocket(config, state, {}, when_lost)
    protocol.connection_made(transport)
    transport.set_protocol(protocol)
    protocol.data_received(head)
