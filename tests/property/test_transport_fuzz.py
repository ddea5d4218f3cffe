"""Whatever a provider sends, and however the network cuts it, the transport stays sound."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import uvloop
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tollhouse.providers.answer import Answer, BadAnswer
from tollhouse.providers.base import NotSent, OutcomeUnknown, ProviderError, TimedOut, WireRequest, WireResponse
from tollhouse.providers.transport import TransportLimits, Upstream

MAX_ANSWER_BYTES = 4096
MAX_HEADER_BYTES = 2048
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


class Sample(NamedTuple):
    """An answer as bytes, and what it means."""

    data: bytes
    meaning: WireResponse
    until_eof: bool


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": raw_deflate,
}
INTERIMS = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Encoding: br\r\n\r\n"]
TOKEN = st.text("abcXYZ019-_!", min_size=1, max_size=8).map("x-".__add__)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12).map(
    lambda text: text.strip(" \t")
)


@st.composite
def chunked(draw, body):
    pieces = []
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        pieces.append(b"%x%b\r\n%b\r\n" % (size, extension, body[:size]))
        body = body[size:]
    trailers = draw(st.sampled_from([b"", b"X-Late: 1\r\n", b"Content-Type: late\r\nX: \r\n"]))
    return b"".join(pieces) + b"0\r\n" + trailers + b"\r\n"


@st.composite
def samples(draw):
    status = draw(st.sampled_from([200, 201, 204, 304, 307, 400, 429, 500, 503, 999]))
    coding = draw(st.sampled_from(sorted(CODINGS)))
    framing = draw(st.sampled_from(["length", "chunked", "eof"]))
    plain = draw(st.binary(max_size=200) | st.sampled_from([b"\r\n", b"{}\n", b"x\r\n\r\n"]))
    lines = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=5))
    wire = b"" if status in {204, 304} else CODINGS[coding](plain)
    if coding:
        lines.append(("Content-Encoding", coding))
    if framing == "length":
        lines.append(("Content-Length", str(len(wire))))
    elif framing == "chunked" and status not in {204, 304}:
        lines.append(("Transfer-Encoding", "chunked"))
        wire = draw(chunked(wire))
    lines = draw(st.permutations(lines))
    headers: dict[str, str] = {}
    for name, value in lines:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}:{value}\r\n" for name, value in lines) + "\r\n"
    interims = b"".join(draw(st.lists(st.sampled_from(INTERIMS), max_size=2)))
    meaning = WireResponse(status, headers, b"" if status in {204, 304} else plain)
    until_eof = framing == "eof" and status not in {204, 304}
    return Sample(interims + head.encode("latin-1") + wire, meaning, until_eof)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(samples(), st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=200, deadline=None)
def test_an_answer_means_the_same_however_it_is_cut(sample, places):
    for pieces in (cut(sample.data, places), [sample.data[i : i + 1] for i in range(len(sample.data))]):
        answer = Answer(MAX_ANSWER_BYTES, MAX_HEADER_BYTES)
        complete = [answer.feed(piece) for piece in pieces]
        assert complete == [False] * (len(pieces) - 1) + [not sample.until_eof]
        assert not sample.until_eof or answer.ends_with_connection()
        assert answer.response() == sample.meaning


@given(samples(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_truncated_answer_is_never_taken_for_a_whole_one(sample, data):
    length = data.draw(st.integers(0, len(sample.data) - 1))
    answer = Answer(MAX_ANSWER_BYTES, MAX_HEADER_BYTES)
    if length:
        assert not answer.feed(sample.data[:length])
    if not sample.until_eof:
        assert not answer.ends_with_connection()


@given(samples(), st.binary(min_size=1, max_size=20) | samples().map(lambda sample: sample.data))
@settings(max_examples=100, deadline=None)
def test_a_connection_with_surplus_bytes_is_never_reused(sample, surplus):
    if sample.until_eof:
        return
    answer = Answer(MAX_ANSWER_BYTES, MAX_HEADER_BYTES)
    assert answer.feed(sample.data + surplus)
    assert answer.response() == sample.meaning
    assert not answer.reusable


@st.composite
def damaged(draw):
    """Bytes that are an answer no more, or never were."""
    whole = bytearray(draw(samples()).data)
    place = draw(st.integers(0, len(whole) - 1))
    match draw(st.sampled_from(["rubbish", "cut", "changed", "removed", "inserted", "doubled", "whole"])):
        case "rubbish":
            return draw(st.binary(min_size=1, max_size=300))
        case "cut":
            return bytes(whole[: place + 1])
        case "changed":
            whole[place] = draw(st.integers(0, 255))
        case "removed":
            del whole[place]
        case "inserted":
            whole[place:place] = draw(st.binary(min_size=1, max_size=5) | st.just(b"\r\n"))
        case "doubled":
            whole *= 2
    return bytes(whole)


@given(damaged(), st.lists(st.integers(0, 10_000), max_size=5))
@settings(max_examples=200, deadline=None)
def test_nothing_but_a_bad_answer_comes_out_of_damage(data, places):
    answer = Answer(MAX_ANSWER_BYTES, MAX_HEADER_BYTES)
    try:
        if any(answer.feed(piece) for piece in cut(data, places)) or answer.ends_with_connection():
            answer.response()
    except BadAnswer:
        event("refused")


class Mischief:
    """A server that answers the first request with given bytes, and every later one well."""

    def __init__(self) -> None:
        self.pieces: list[bytes] | None = None
        self.ending = ""
        self.done = asyncio.Event()

    async def __call__(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.rsplit(b":", 1)[1]))
                pieces, self.pieces = self.pieces, None
                if pieces is None:
                    writer.write(GOOD)
                    continue
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if self.ending != "stay":
                    break
                self.done.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if self.ending == "reset":
                writer.transport.abort()
            writer.close()
            # Only now is the end of the connection on its way, and the client able to know.
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.done.set()


async def exchange_twice(data: bytes, places: list[int], ending: str) -> WireResponse | ProviderError:
    """Have ``data`` for an answer, then a good one over the same pool; return what the first call came to."""
    mischief = Mischief()
    mischief.pieces, mischief.ending = cut(data, places), ending
    server = await asyncio.start_server(mischief, "127.0.0.1", 0)
    limits = TransportLimits(max_connections=1, max_answer_bytes=MAX_ANSWER_BYTES, max_header_bytes=MAX_HEADER_BYTES)
    upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", limits=limits)
    clock = asyncio.get_running_loop().time
    request = WireRequest("/v1/x", (("x-api-key", "k"),), b"{}")
    try:
        first = await outcome(upstream.post(request, deadline_s=clock() + 0.02))
        while isinstance(first, NotSent):
            # A machine that did not come to send anything by then has put nothing to the test yet.
            mischief.done.clear()
            first = await outcome(upstream.post(request, deadline_s=clock() + 1))
        await mischief.done.wait()
        second = await outcome(upstream.post(request, deadline_s=clock() + 20))
    finally:
        await upstream.close()
        server.close()
    assert upstream._slots_taken == 0
    assert second == WireResponse(200, {"content-length": "4"}, b"good")
    return first


async def outcome(call: Awaitable[WireResponse]) -> WireResponse | ProviderError:
    try:
        return await call
    except ProviderError as error:
        return error


@given(damaged(), st.lists(st.integers(0, 10_000), max_size=5), st.sampled_from(["stay", "close", "reset"]))
@settings(max_examples=125, deadline=None)
def test_no_answer_hangs_a_call_or_poisons_the_pool(data, places, ending):
    first = uvloop.run(exchange_twice(data, places, ending))
    event(type(first).__name__)
    assert isinstance(first, WireResponse | OutcomeUnknown | TimedOut)
