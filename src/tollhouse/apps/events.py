"""``GET /events`` and ``/events/ws``: events as they come, as a stream (SSE), by long poll or over a WebSocket.

They are answered ahead of the control plane's framework: thousands of clients may follow at once, each for hours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import structlog

from tollhouse.apps.answers import error_answer
from tollhouse.apps.api import AsgiApp, Receive, Scope, Send
from tollhouse.errors import InternalError, MethodNotAllowed, TollhouseError, Unauthorized, Unavailable
from tollhouse.events.cloudevents import cloud_event
from tollhouse.events.feed import Follower
from tollhouse.events.model import Event
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.request import FollowRequest
from tollhouse.notifications.service import Notifications

EVENTS_PATH = b"/events"
SOCKET_PATH = b"/events/ws"
ABORT = "tollhouse.abort"
"""The extension of a scope that hangs up on a client, whatever still waits to be sent to it."""

_Headers = list[tuple[bytes, bytes]]
# A piece is at most so long before it is looked whether the client still reads.
_PIECE_BYTES = 256 * 1024
# How long a browser waits before it connects again; spread by the clients themselves, which is for them to do.
_RETRY = b"retry: 2000\n"
_STREAM_HEADERS: _Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Proxies such as nginx would otherwise collect what is meant to arrive piece by piece.
    (b"x-accel-buffering", b"no"),
]
# How long what is there already may take to be read, before a poll gives up.
_REPLAY_S = 20.0
_ALLOWED_METHODS = b"GET, OPTIONS"
# WebSocket's close codes: 1008 is for a broken rule (RFC 6455 §7.4.1), 1012 and 1013 are IANA's for a restart, and for
# what is to be tried again later.
_RULE_BROKEN, _RESTART, _TRY_LATER = 1008, 1012, 1013
_LOG = structlog.get_logger("tollhouse.events")


def telling_events(app: AsgiApp, notifications: Notifications, clock: Clock) -> AsgiApp:
    """Return an application that lets clients follow events, and leaves all else to another."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _Socket(notifications, clock, scope, receive, send).serve()
        elif scope["type"] == "http" and scope["raw_path"] == EVENTS_PATH:
            await _Request(notifications, clock, scope, receive, send).serve()
        else:
            await app(scope, receive, send)

    return answer


class _Client:
    """What is the same for whoever follows, by whatever protocol."""

    def __init__(self, notifications: Notifications, clock: Clock, scope: Scope, receive: Receive, send: Send) -> None:
        self._notifications = notifications
        self._scope = scope
        self._receive = receive
        self._asgi_send = send
        self._request_id = new_id("req", clock.now_ms())
        self._has_gone = False

    async def _send(self, **message: object) -> None:
        """Send to the client; one that does not read in time is hung up on. Raises TimeoutError then."""
        try:
            async with asyncio.timeout(self._notifications.settings.send_timeout_s):
                await self._asgi_send(message)
        except TimeoutError:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        abort: Callable[[], None] = self._scope.get("extensions", {}).get(ABORT, lambda: None)
        abort()

    async def _wait_for_end(self, follower: Follower, goodbye: str) -> None:
        """Have a follower end when its client has gone."""
        while (await self._receive())["type"] != goodbye:
            pass
        self._has_gone = True
        follower.close()

    async def _relay(
        self, follower: Follower, grant: Grant, goodbye: str, tell: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> None:
        """Pass on what comes, for as long as the client is there and may follow."""
        watching = asyncio.ensure_future(self._wait_for_end(follower, goodbye))
        try:
            while not follower.is_closed and self._notifications.may_go_on(grant):
                events = await follower.take(self._notifications.left_s(grant))
                # Looked at again: a key that was revoked meanwhile is told nothing more.
                if (not events or self._notifications.may_go_on(grant)) and not follower.is_closed:
                    await tell(events)
        except TimeoutError:
            self._has_gone = True
            self._notifications.dropped += 1
            _LOG.info("a client that did not read was dropped", request_id=self._request_id)
        finally:
            watching.cancel()

    def _cross_origin(self) -> _Headers | None:
        """Return the headers with which a page of another host may read the answer; None where it may not.

        No header is for what comes from no page, or from one of this very host.
        """
        headers = dict(self._scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or _host_of(origin) == headers.get(b"host"):
            return []
        if origin.decode("latin-1") not in self._notifications.settings.allowed_origins:
            return None
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


class _Request(_Client):
    """A request over HTTP."""

    _is_answering = False

    async def serve(self) -> None:
        extra = self._cross_origin() or []
        try:
            await self._answer(self._scope["method"], extra)
        except TimeoutError:
            return
        except TollhouseError as error:
            await self._refuse(error, extra)
        except Exception:  # noqa: BLE001 - a defect here must not leave the client without an answer
            _LOG.exception("a request for events failed on a defect", request_id=self._request_id)
            if self._is_answering:
                self._hang_up()
            else:
                await self._refuse(InternalError("something went wrong here; it has been logged"), extra)

    async def _answer(self, method: str, extra: _Headers) -> None:
        match method:
            case "GET":
                await self._follow(extra)
            case "OPTIONS":
                await self._tell_what_is_allowed(extra)
            case _:
                raise MethodNotAllowed(f"{method} is not served here; expected GET")

    async def _follow(self, extra: _Headers) -> None:
        request, grant = self._notifications.read(self._scope["headers"], self._scope["query_string"])
        async with self._notifications.following(request, grant) as follower:
            headers = [*extra, (b"x-request-id", self._request_id.encode())]
            if request.wants_json:
                await self._poll(request, grant, follower, headers)
            else:
                await self._stream(grant, follower, headers)

    async def _stream(self, grant: Grant, follower: Follower, headers: _Headers) -> None:
        self._is_answering = True
        await self._send(type="http.response.start", status=200, headers=[*_STREAM_HEADERS, *headers])
        # From here on a client that comes back says from where, even if nothing has happened meanwhile.
        await self._send_body(_RETRY + _id_line(follower.position) + b"\n")

        async def tell(events: Sequence[Event]) -> None:
            if not events:
                # An id without data tells a browser no event, and yet where to go on.
                await self._send_body(_id_line(follower.position) + b"\n")
            for piece in _pieces([_stream_event(event) for event in events]):
                await self._send_body(piece)

        try:
            await self._relay(follower, grant, "http.disconnect", tell)
        except TollhouseError as error:
            # The status has gone; what is said instead is what the next connection is told with its status.
            await self._send_body(b": %b\n\n" % error.message.encode())
        if not self._has_gone:
            await self._send(type="http.response.body", body=b"", more_body=False)

    async def _send_body(self, data: bytes) -> None:
        await self._send(type="http.response.body", body=data, more_body=True)

    async def _poll(self, request: FollowRequest, grant: Grant, follower: Follower, headers: _Headers) -> None:
        """Answer with the next events, or with none after a while."""
        watching = asyncio.ensure_future(self._wait_for_end(follower, "http.disconnect"))
        try:
            async with asyncio.timeout(_REPLAY_S):
                found = await follower.take_at_once()
            found = found or await follower.take(request.wait_s)
        except TimeoutError:
            raise Unavailable("events cannot be read just now; try again shortly", retry_after_s=1) from None
        finally:
            watching.cancel()
        if not self._notifications.may_go_on(grant):
            raise Unauthorized("the key or token has ended meanwhile")
        told = found[: request.limit]
        position = told[-1].position if told else follower.position
        body = b'{"events":[%b],"position":%d}' % (b",".join(map(cloud_event, told)), position)
        headers += [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send(type="http.response.start", status=200, headers=headers)
        await self._send(type="http.response.body", body=body)

    async def _tell_what_is_allowed(self, extra: _Headers) -> None:
        """Answer what a browser asks before it sends a header of a page's own."""
        headers = [*extra, (b"allow", _ALLOWED_METHODS), (b"content-length", b"0")]
        if extra:
            headers.append((b"access-control-allow-methods", b"GET"))
            headers.append((b"access-control-allow-headers", b"authorization, last-event-id"))
            headers.append((b"access-control-max-age", b"600"))
        await self._send(type="http.response.start", status=204, headers=headers)
        await self._send(type="http.response.body", body=b"")

    async def _refuse(self, error: TollhouseError, extra: _Headers) -> None:
        status, headers, body = error_answer(error, self._request_id)
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", _ALLOWED_METHODS))
        await self._send(type="http.response.start", status=status, headers=[*headers, *extra])
        await self._send(type="http.response.body", body=body)


class _Socket(_Client):
    """A WebSocket: each event is a text message. What the client says is not listened to."""

    async def serve(self) -> None:
        await self._receive()
        async with AsyncExitStack() as stack:
            try:
                if self._scope["raw_path"] != SOCKET_PATH or self._cross_origin() is None:
                    await self._send(type="websocket.close", code=_RULE_BROKEN)
                    return
                request, grant = self._notifications.read(self._scope["headers"], self._scope["query_string"])
                follower = await stack.enter_async_context(self._notifications.following(request, grant))
            except TollhouseError as error:
                await self._refuse(error)
                return
            await self._send(type="websocket.accept", headers=[(b"x-request-id", self._request_id.encode())])
            try:
                await self._relay(follower, grant, "websocket.disconnect", self._tell)
                code, reason = (_RESTART, "restart") if follower.is_closed else (_RULE_BROKEN, "token or key has ended")
            except TollhouseError as error:
                code, reason = _TRY_LATER, error.code
            if not self._has_gone:
                await self._send(type="websocket.close", code=code, reason=reason)

    async def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            await self._send(type="websocket.send", text=cloud_event(event).decode())

    async def _refuse(self, error: TollhouseError) -> None:
        """Answer with a status and the error's body, in the place of a socket."""
        status, headers, body = error_answer(error, self._request_id)
        await self._send(type="websocket.http.response.start", status=status, headers=headers)
        await self._send(type="websocket.http.response.body", body=body)


def _host_of(origin: bytes) -> bytes | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _stream_event(event: Event) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (event.position, cloud_event(event))


def _id_line(position: int) -> bytes:
    return b"id: %d\n" % position


def _pieces(parts: Sequence[bytes]) -> list[bytes]:
    """Join what fits into a piece of bounded length."""
    pieces: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if waiting and size + len(part) > _PIECE_BYTES:
            pieces.append(b"".join(waiting))
            waiting, size = [], 0
        waiting.append(part)
        size += len(part)
    if waiting:
        pieces.append(b"".join(waiting))
    return pieces
