"""What every wire format has to do, and what several of them do alike."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from tollhouse.testing.behaviour import Behaviour, Format, Tokens
from tollhouse.testing.billing import Bill, Call, json_pieces, text_pieces

# Answers carry no clock: any fixed second will do.
CREATED_S = 1_760_000_000
MALFORMED = {"input": -7, "output": "many"}


class BadCall(Exception):
    """The request is not one of its format; the message says what was expected."""


class WireFormat(Protocol):
    """One API of one vendor, from its side of the wire."""

    name: Format
    id_header: str | None
    """The header in which this vendor repeats a call's id."""
    stream_type: str
    """The content type of its event streams."""
    is_free: bool
    """Nothing is billed for calls of this API."""

    def read(self, target: str, body: bytes) -> Call:
        """Raises BadCall."""

    def fold(self, tokens: Tokens) -> Tokens:
        """Merge the classes that this format does not tell apart."""

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        """Return a whole answer as a JSON body."""

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        """Make a streamed answer, one event after the other, each with the empty line that ends it."""

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:
        """Return an error as a JSON body."""

    def error_event(self, reason: str, number: int) -> bytes:
        """Return the event that says, after ``number`` others, that the vendor cannot go on."""


class NeverStreamed:
    """The part of a format that its API has no use for, as its answers always come whole."""

    stream_type = ""

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        raise NotImplementedError("read() reads no call that is streamed")

    def error_event(self, reason: str, number: int) -> bytes:
        raise NotImplementedError("read() reads no call that is streamed")


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Return a request's body; raises BadCall."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadCall(str(error)) from error


@lru_cache(maxsize=32)
def encoded_words(text: str) -> tuple[bytes, ...]:
    """Return a text's words, each as a JSON string. Calls are answered with the same few texts again and again."""
    return tuple(msgspec.json.encode(piece) for piece in text_pieces(text))


@lru_cache(maxsize=32)
def encoded_arguments(text: str) -> tuple[bytes, ...]:
    """Return the pieces of a tool call's arguments, each as a JSON string."""
    return tuple(msgspec.json.encode(piece) for piece in json_pieces(text))


def event(data: Any, name: str = "") -> bytes:
    """Return a server-sent event that holds JSON."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (head, msgspec.json.encode(data))


def without_cache_writes(tokens: Tokens) -> Tokens:
    """Return tokens of a vendor that bills what it writes into its cache like any input."""
    written = tokens.cache_write_tokens + tokens.cache_write_1h_tokens
    if not written:
        return tokens
    fresh = tokens.input_tokens + written
    return msgspec.structs.replace(tokens, input_tokens=fresh, cache_write_tokens=0, cache_write_1h_tokens=0)


def with_one_cache_write(tokens: Tokens) -> Tokens:
    """Return tokens of a vendor whose cache knows one lifetime."""
    if not tokens.cache_write_1h_tokens:
        return tokens
    written = tokens.cache_write_tokens + tokens.cache_write_1h_tokens
    return msgspec.structs.replace(tokens, cache_write_tokens=written, cache_write_1h_tokens=0)
