"""HTTP/1.1 as both clients speak it: one exchange at a time on a connection, without the socket (h11)."""

from collections.abc import Mapping

import h11
import msgspec

from tollhouse.client.errors import ConnectionLost, TollhouseError, UnexpectedAnswer
from tollhouse.client.request import Request

READ_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 64 * 1024
_BEGINNING = b"HTTP/"


class Head(msgspec.Struct, frozen=True):
    """What comes ahead of an answer's body; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]


class Wire:
    """A connection's state.

    Attributes:
        has_answered: something of the answer to the latest request has come.
    """

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._has_ended = False
        self._beginning = b""
        self.has_answered = False

    def request(self, request: Request) -> bytes:
        """Begin an exchange: return what is to be sent for it."""
        self._beginning = b""
        self.has_answered = False
        headers = request.headers
        if request.method != "GET":
            headers = [*headers, ("Content-Length", str(len(request.body)))]
        parts = [self._h11.send(h11.Request(method=request.method, target=request.target, headers=headers))]
        if request.body:
            parts.append(self._h11.send(h11.Data(data=request.body)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    def feed(self, data: bytes) -> None:
        """Take what was received; nothing is the connection's end."""
        self._has_ended = not data
        self.has_answered = self.has_answered or bool(data)
        if len(self._beginning) < len(_BEGINNING):
            self._check_beginning(data)
        try:
            self._h11.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise self._broken(error) from None

    def _check_beginning(self, data: bytes) -> None:
        """Tell at once what is no HTTP: it may never come to an end that a parser would find wrong."""
        self._beginning += data[: len(_BEGINNING)]
        if not _BEGINNING.startswith(self._beginning[: len(_BEGINNING)]):
            raise UnexpectedAnswer("what answered speaks no HTTP/1.1")

    def head(self) -> Head | None:
        """Return the answer's head, or None until it has come.

        Raises:
            ConnectionLost: the connection ended before.
            UnexpectedAnswer: what came is no HTTP/1.1.
        """
        while True:
            event = self._next()
            if event is None:
                return None
            if isinstance(event, h11.Response):
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                return Head(event.status_code, headers)
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionLost("the connection was closed without an answer")

    def body(self) -> bytes | None:
        """Return the next piece of the answer's body: nothing at its end, and None until more has come.

        Raises:
            ConnectionLost: the connection ended before.
            UnexpectedAnswer: what came is no HTTP/1.1.
        """
        event = self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        return None if event is None else b""

    def is_reusable(self) -> bool:
        """Whether the exchange is over, and another may follow; makes ready for it if so."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE or self._has_ended:
            return False
        if self._h11.trailing_data[0]:
            # What nobody asked for would pass for the answer to the next request.
            return False
        self._h11.start_next_cycle()
        return True

    def _next(self) -> h11.Event | None:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise self._broken(error) from None
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise ConnectionLost("the connection was closed without an answer")
        return event if isinstance(event, h11.Event) else None

    def _broken(self, error: h11.RemoteProtocolError) -> TollhouseError:
        if self._has_ended:
            return ConnectionLost("the connection was closed in the middle of the answer")
        return UnexpectedAnswer(f"what answered speaks no HTTP/1.1: {error}")
