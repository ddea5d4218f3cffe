"""Server-sent events, as providers stream answers in (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import re
from collections.abc import Iterator

import msgspec

# An event ends with an empty line; a line ends with CR LF, LF or CR.
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event.

    Attributes:
        raw: its bytes as they came, with the empty line that ends it: sent on, they are the same event.
        data: its data lines, joined by line ends; empty for a comment.
        name: what ``event:`` says; "" where nothing does.
    """

    raw: bytes
    data: bytes
    name: str = ""


class EventTooLong(Exception):
    """An event does not end within its bound."""


class EventParser:
    """Cuts a stream into its events.

    Args:
        max_event_bytes: how long one event may be.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Take the next bytes, and return the events that are whole with them.

        Raises:
            EventTooLong: one goes on beyond its bound.
        """
        rest = self._rest
        # What was looked through before holds no end, but for one that has only now come whole.
        position = max(0, len(rest) - _LONGEST_END + 1)
        rest += data
        start = 0
        while (end := _end(rest, position)) > 0:
            raw = rest[start:end]
            if self._is_first:
                self._is_first = False
                raw = raw.removeprefix(_BYTE_ORDER_MARK)
            yield _event(raw)
            start = position = end
        self._rest = rest[start:] if start else rest
        if len(self._rest) > self._max_event_bytes:
            raise EventTooLong(f"an event is longer than {self._max_event_bytes} bytes")

    def rest(self) -> bytes:
        """Return what has come of an event that is not whole; nothing, where the stream ended as it should."""
        return self._rest


def _end(data: bytes, position: int) -> int:
    """Return where the first event from a position on ends, or 0."""
    if data.find(b"\r", position) < 0:
        # As almost everywhere; and to look for one thing costs a tenth of looking for five.
        found = data.find(b"\n\n", position)
        return found + len(b"\n\n") if found >= 0 else 0
    end = _END.search(data, position)
    return end.end() if end else 0


def _event(raw: bytes) -> ServerSentEvent:
    data: list[bytes] = []
    name = ""
    for line in raw.split(b"\n") if b"\r" not in raw else _LINE_END.split(raw):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return ServerSentEvent(raw, data[0] if len(data) == 1 else b"\n".join(data), name)


def encode_event(data: bytes, name: str = "") -> bytes:
    """Return an event; its data has to be one line, as JSON is."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data
