"""An HTTP/1.1 answer as it arrives: bytes in, a checked and bounded WireResponse out. Nothing here does I/O.

Parsing is llhttp's, through httptools. What this file adds is what makes the answer trustworthy: bounds on
everything that arrives, decompression within those bounds, and certainty about where the answer ends.
"""

import re
import zlib
from collections.abc import Callable, Mapping

import httptools

from tollhouse.providers.base import WireResponse

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZLIB_WINDOW = zlib.MAX_WBITS
_RAW_DEFLATE_WINDOW = -zlib.MAX_WBITS
# The low half of a zlib stream's first byte names its method (RFC 1950 §2.2); 8 is deflate.
_ZLIB_METHOD_DEFLATE = 8

_PLAIN_CODINGS = frozenset({"", "identity"})
_COMPRESSED_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_KEEP_ALIVE_TIMEOUT = re.compile(r"\btimeout\s*=\s*(\d{1,9})", re.IGNORECASE)


def _decoded(names: bytes, values: bytes) -> dict[str, str]:
    """Return header lines, joined by line ends, as a dict with names in lower case.

    Decoding them together costs a third of decoding each; no name or value can hold a line end.
    """
    if not names:
        return {}
    keys = names.decode("latin-1").lower().split("\n")
    texts = values.decode("latin-1").split("\n")
    headers = dict(zip(keys, texts, strict=True))
    if len(headers) < len(keys):
        headers.clear()
        for key, text in zip(keys, texts, strict=True):
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _is_json(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


class BadAnswer(Exception):
    """What arrived cannot be taken as an answer; the message ends a sentence that begins "the answer"."""


class Body:
    """An answer's body: decompressed, bounded, and kept whole, or passed on piece by piece.

    A body in several gzip members is refused: no provider sends one, and unpacking a flood of empty members
    is work without a bound.

    Args:
        coding: the Content-Encoding, in lower case.
        max_bytes: how large the body may be, decompressed.
        take: takes the pieces, where nobody wants the body whole.

    Raises:
        BadAnswer: the coding is not one that can be undone here.
    """

    __slots__ = ("_chunks", "_coding", "_inflater", "_max_bytes", "_room_bytes", "_take", "last_chunk")

    def __init__(self, coding: str, max_bytes: int, take: Callable[[bytes], None] | None = None) -> None:
        if coding not in _PLAIN_CODINGS and coding not in _COMPRESSED_CODINGS:
            raise BadAnswer("has a Content-Encoding that was not asked for")
        self.last_chunk = b""
        self._coding = coding
        self._inflater: zlib._Decompress | None = None
        self._chunks: list[bytes] = []
        self._take = take or self._chunks.append
        self._max_bytes = self._room_bytes = max_bytes

    def add(self, chunk: bytes) -> None:
        """Take the next piece as it came; raises BadAnswer when it is too much or does not decompress."""
        self.last_chunk = chunk
        if self._coding not in _PLAIN_CODINGS:
            chunk = self._decompressed(chunk)
        self._room_bytes -= len(chunk)
        if self._room_bytes < 0:
            raise BadAnswer(f"is larger than {self._max_bytes} bytes")
        if chunk:
            self._take(chunk)

    def whole(self) -> bytes:
        """Return the body, but for what was passed on; raises BadAnswer when its compressed form was cut short."""
        if self._inflater is not None and not self._inflater.eof:
            raise BadAnswer("has a compressed body that is cut short")
        return b"".join(self._chunks)

    def _decompressed(self, chunk: bytes) -> bytes:
        inflater = self._inflater
        if inflater is None:
            inflater = self._inflater = zlib.decompressobj(self._window(chunk))
        try:
            # One byte over the limit is enough to know; the rest of a bomb is never unpacked.
            plain = inflater.decompress(chunk, self._room_bytes + 1)
        except zlib.error as error:
            raise BadAnswer(f"has a body that is not valid {self._coding}") from error
        if inflater.unused_data:
            raise BadAnswer("goes on after the end of its compressed body")
        return plain

    def _window(self, chunk: bytes) -> int:
        if self._coding != "deflate":
            return _GZIP_WINDOW
        # "deflate" means a zlib stream (RFC 9110 §8.4.1.2), but some servers send the bare one.
        return _ZLIB_WINDOW if chunk[0] & 0x0F == _ZLIB_METHOD_DEFLATE else _RAW_DEFLATE_WINDOW


class Answer:
    """The answer to one request, from the first byte that arrives after it; cleared, it takes the next one.

    Interim answers (1xx) are skipped. Redirects are answers like any other.

    Args:
        max_answer_bytes: bound on the body, decompressed as well as on the wire.
        max_header_bytes: bound on everything up to the end of the headers, interim answers included.

    Attributes:
        status: 0 until the head has arrived.
        take: takes the body of a 200 piece by piece, but for one in JSON, which is no stream; to be set before anything
            arrives.
        is_passed_on: ``take`` gets the body.
        reusable: the answer is complete, the connection stays open, and nothing followed.
        keep_alive_s: seconds for which the server said it keeps an idle connection open, or None.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_complete",
        "_headers",
        "_keep_alive",
        "_max_answer_bytes",
        "_max_header_bytes",
        "_names",
        "_parser",
        "_received_bytes",
        "_until_eof",
        "_values",
        "is_passed_on",
        "keep_alive_s",
        "reusable",
        "status",
        "take",
    )

    def __init__(self, max_answer_bytes: int, max_header_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._max_header_bytes = max_header_bytes
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.clear()

    def clear(self) -> None:
        """Let go of an answer. After one that was read to its end, the next on the same connection can be taken.

        The parser stays: it is ready too then, and to make one costs more than to read an answer with it.
        """
        self.status = 0
        self.take: Callable[[bytes], None] | None = None
        self.is_passed_on = False
        self.reusable = False
        self.keep_alive_s: int | None = None
        self._received_bytes = 0
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._body: Body | None = None
        self._complete = False

    @property
    def begun(self) -> bool:
        """Whether anything at all has arrived."""
        return self._received_bytes > 0

    def feed(self, data: bytes) -> bool:
        """Take the next bytes (at least one) and return whether the answer is complete with them.

        Raises:
            BadAnswer: it is malformed, too large, or in a form that was not asked for.
        """
        assert self._parser is not None, "an answer takes nothing after its end"
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What follows a complete answer costs the connection, not the answer.
            if not self._complete:
                raise self._explained(error) from error
        else:
            self.reusable = self._complete and self._keep_alive and self._nothing_follows(data)
        if not self._complete:
            self._check_size()
        return self._complete

    @property
    def headers(self) -> Mapping[str, str]:
        """The head's, once it has arrived; names in lower case."""
        return self._headers

    def ends_with_connection(self) -> bool:
        """Return whether this answer, which is not complete yet, has no end but the connection's."""
        return self.status != 0 and self._until_eof

    def response(self) -> WireResponse:
        """Return the complete answer; raises BadAnswer when its compressed body was cut short."""
        assert self._body is not None, "the answer is not complete"
        return WireResponse(self.status, self._headers, self._body.whole())

    def discard(self) -> None:
        """Let go of the parser, which refers back to this object: what is left is freed at once."""
        self._parser = None

    # What the parser calls. What is raised here comes out of feed_data as an HttpParserCallbackError.

    def on_message_begin(self) -> None:
        if self._complete:
            raise BadAnswer("is followed by another one")

    def on_header(self, name: bytes, value: bytes) -> None:
        # A chunked body's trailers come here too, but after the head was taken: they never pass for headers.
        self._names.append(name)
        self._values.append(value)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self._take_head(status, self._parser)
        elif status < 100 or status == 101:
            raise BadAnswer(f"has the status {status:03d}")
        else:
            self._names.clear()
            self._values.clear()

    def on_body(self, chunk: bytes) -> None:
        assert self._body is not None, "a body follows its head"
        self._body.add(chunk)

    def on_message_complete(self) -> None:
        # An interim answer is complete here too, but has left the status unset: the real one follows.
        if self.status:
            assert self._parser is not None
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _take_head(self, status: int, parser: httptools.HttpResponseParser) -> None:
        names, values = b"\n".join(self._names), b"\n".join(self._values)
        if len(names) + len(values) > self._max_header_bytes:
            raise BadAnswer(f"has headers larger than {self._max_header_bytes} bytes")
        headers = _decoded(names, values)
        coding = headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or parser.get_http_version() != "1.1"):
            raise BadAnswer("has a Transfer-Encoding other than chunked")
        if "keep-alive" in headers and (timeout := _KEEP_ALIVE_TIMEOUT.search(headers["keep-alive"])):
            self.keep_alive_s = int(timeout[1])
        self._chunked = coding is not None
        self._until_eof = not (self._chunked or "content-length" in headers)
        # Some servers answer a request for a stream whole, or with an error under status 200.
        take = self.take if status == 200 and not _is_json(headers) else None
        self.is_passed_on = take is not None
        self._body = Body(headers.get("content-encoding", "").lower(), self._max_answer_bytes, take)
        self._headers = headers
        self.status = status

    def _check_size(self) -> None:
        if not self.status and self._received_bytes > self._max_header_bytes:
            raise BadAnswer(f"has headers larger than {self._max_header_bytes} bytes")
        # Chunk headers and trailers count too: with their share, a body of the largest size still fits.
        if self._received_bytes > self._max_header_bytes + self._max_answer_bytes:
            raise BadAnswer(f"is larger than {self._max_answer_bytes} bytes")

    def _nothing_follows(self, data: bytes) -> bool:
        """Return whether the complete answer ends where ``data`` does.

        llhttp reports what follows an answer, except line ends, which it skips. So only data that ends in
        one is in question: its last line end has to be the answer's own. When that cannot be seen from this
        piece alone, the answer is no.
        """
        if data[-1] not in b"\r\n":
            return True
        assert self._body is not None, "a complete answer has a body, if only an empty one"
        last_chunk = self._body.last_chunk
        if self._chunked or not last_chunk:
            return data.endswith(b"\r\n\r\n") and data[-5:-4] not in {b"", b"\r", b"\n"}
        return data.endswith(last_chunk) and bool(last_chunk.strip(b"\r\n"))

    @staticmethod
    def _explained(error: Exception) -> BadAnswer:
        cause = error.__context__
        return cause if isinstance(cause, BadAnswer) else BadAnswer(f"is not valid HTTP/1.1: {error}")
