"""Events of a streamed answer, from the bytes that come (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import re
from collections.abc import Iterator

import msgspec

from tollhouse.client.errors import ApiError, TollhouseError, UnexpectedAnswer, api_error
from tollhouse.client.model import Completion, Delta, StreamEvent, Tokens, read_completion

_LINE_END = re.compile(rb"\r\n|\n|\r")
_decode_delta = msgspec.json.Decoder(Delta).decode
_decode_tokens = msgspec.json.Decoder(Tokens).decode


class EventReader:
    """Reads the events of one answer.

    Args:
        max_event_bytes: how long one event may be.

    Attributes:
        completion: the whole answer, once it has come.
    """

    def __init__(self, idempotency_key: str, *, replayed: bool, max_event_bytes: int) -> None:
        self.completion: Completion | None = None
        self._key = idempotency_key
        self._replayed = replayed
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._lines: list[bytes] = []
        self._line_bytes = 0

    def feed(self, data: bytes) -> Iterator[StreamEvent]:
        """Take the next bytes, and return the events that are whole with them.

        Raises:
            ApiError: an event tells of an error.
            UnexpectedAnswer: one cannot be read, or is too long.
        """
        if self.completion is not None:
            return
        *lines, self._rest = _lines(self._rest + data)
        for line in lines:
            if line:
                self._lines.append(line)
                self._line_bytes += len(line)
            elif self._lines:
                name, told = _event(self._lines)
                self._lines, self._line_bytes = [], 0
                if told and (event := self._read(name, told)) is not None:
                    yield event
                    if isinstance(event, Completion):
                        return
        if self._line_bytes + len(self._rest) > self._max_event_bytes:
            raise UnexpectedAnswer(f"an event is longer than max_answer_bytes, {self._max_event_bytes}")

    def _read(self, name: str, told: bytes) -> StreamEvent | None:
        """Return what an event says; None for one that this version does not know."""
        try:
            if name == "delta":
                return _decode_delta(told)
            if name == "usage":
                return _decode_tokens(told)
            if name == "done":
                self.completion = read_completion(told, self._key, replayed=self._replayed)
                return self.completion
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnexpectedAnswer(f"the event {name!r} cannot be read: {type(error).__name__}") from None
        if name == "error":
            raise _error(told)
        return None


def _lines(data: bytes) -> list[bytes]:
    """Return the lines of a text; the last one is not ended yet."""
    if b"\r" not in data:
        return data.split(b"\n")
    if not data.endswith(b"\r"):
        return _LINE_END.split(data)
    # What follows decides whether this is half of a line's end.
    *lines, last = _LINE_END.split(data[:-1])
    return [*lines, last + b"\r"]


def _event(lines: list[bytes]) -> tuple[str, bytes]:
    name, data = "", []
    for line in lines:
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return name, b"\n".join(data)


def _error(told: bytes) -> TollhouseError:
    error: ApiError | None = api_error(told)
    return error or UnexpectedAnswer("the event 'error' cannot be read")
