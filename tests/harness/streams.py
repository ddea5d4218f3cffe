"""Streamed calls by the thousand, in each client's format, and callers who leave in the midst of them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httptools

from harness.load import post
from harness.reckoning import numbered_body
from harness.service import TenantId
from tollhouse.providers.sse import EventParser, ServerSentEvent

Client = Literal["native", "chat", "responses", "messages", "gemini"]
CLIENTS: tuple[Client, ...] = ("native", "chat", "responses", "messages", "gemini")
_PATIENCE_S = 100.0
_PATHS = {
    "native": "/ai/complete",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


@dataclass
class Caller:
    """What became of a streamed call.

    Attributes:
        status: None when nothing was read of the answer.
        events: those that came, comments left out.
        is_whole: the answer's body came to its end.
    """

    number: int
    status: int | None = None
    events: list[ServerSentEvent] = field(default_factory=list)
    is_whole: bool = False

    @property
    def failure(self) -> Any:
        """The error object that the stream ends with, in whatever shape the client's format has; None without one."""
        told = [json.loads(event.data) for event in self.events if event.data != b"[DONE]"]
        last: dict[str, Any] = told[-1] if told else {}
        if last.get("type") == "response.failed":
            return last["response"]["error"]
        return last if last.get("type") == "error" else last.get("error")


def streamed_call(client: Client, model: str, number: int, tenant: TenantId, key: str) -> bytes:
    """Return the streamed call with a number, as a client sends it."""
    body = numbered_body(number, tenant, model=model, stream=True)
    if client == "native":
        return post(body, key)
    said, limit = body["user_message"], body["max_tokens"]
    turns = [{"role": "user", "content": said}]
    path = _PATHS.get(client, f"/v1beta/models/{model}:streamGenerateContent?alt=sse")
    asked: dict[str, Any] = {"model": model, "stream": True}
    if client == "chat":
        asked |= {"messages": turns, "max_tokens": limit}
    elif client == "responses":
        asked |= {"input": said, "max_output_tokens": limit}
    elif client == "messages":
        asked |= {"messages": turns, "max_tokens": limit}
    else:
        asked = {
            "contents": [{"role": "user", "parts": [{"text": said}]}],
            "generationConfig": {"maxOutputTokens": limit},
        }
    whose = {"x_tenant_id": str(tenant), "x_user_id": str(number), "x_feature_slug": "streams"}
    return post(asked, key, **whose).replace(b"/ai/complete", path.encode(), 1)


class _Connection(asyncio.Protocol):
    """One streamed call, and a caller who leaves after some of its events, if they are told to."""

    def __init__(self, caller: Caller, leave_after: int | None) -> None:
        self.done = asyncio.Event()
        self.caller = caller
        self.has_event = asyncio.Event()
        self._leave_after = leave_after
        self._events = EventParser(1 << 20)
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def leave(self) -> None:
        self.done.set()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()
        self.has_event.set()

    def data_received(self, data: bytes) -> None:
        if not self.done.is_set():
            self._parser.feed_data(data)

    # What the parser calls.

    def on_headers_complete(self) -> None:
        self.caller.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.caller.events += [event for event in self._events.feed(body) if event.data]
        self.has_event.set()
        if self._leave_after is not None and len(self.caller.events) >= self._leave_after:
            self.leave()

    def on_message_complete(self) -> None:
        self.caller.is_whole = True
        self.done.set()


class Callers:
    """Callers with a connection each, opened ahead, whose calls are sent in one go.

    Args:
        ports: where to; of several, each gets its share.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._connections: list[_Connection] = []

    async def send(
        self, requests: Sequence[bytes], *, start: int = 0, leave_after: Sequence[int | None] | None = None
    ) -> None:
        """Send requests, numbered from ``start``.

        Args:
            leave_after: for each, after how many events its caller leaves; 0 right after it was sent, None never.
        """
        loop = asyncio.get_running_loop()
        opened = []
        for index in range(len(requests)):
            after = leave_after[index] if leave_after is not None else None
            connection = _Connection(Caller(start + index), after)
            await _connect(connection, self._ports[index % len(self._ports)])
            opened.append(connection)
        self._connections += opened
        for index, (connection, request) in enumerate(zip(opened, requests, strict=True)):
            connection.send(request)
            if leave_after is not None and leave_after[index] == 0:
                # At various moments of what comes before the first event.
                loop.call_later(0.0005 * (index % 50), connection.leave)

    async def all_have_begun(self) -> None:
        """Wait until each has got an event, or lost its connection."""
        async with asyncio.timeout(_PATIENCE_S):
            for connection in self._connections:
                await connection.has_event.wait()

    async def ended(self) -> list[Caller]:
        """Wait until all have their answers, or have left or lost their connections; return what became of them."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for connection in self._connections:
                    await connection.done.wait()
        finally:
            for connection in self._connections:
                connection.leave()
        return [connection.caller for connection in self._connections]


async def _connect(connection: _Connection, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
