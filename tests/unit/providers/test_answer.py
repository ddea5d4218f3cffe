"""Answers, byte for byte, without a network."""

import gzip
import tracemalloc
import zlib

import pytest

from tollhouse.providers.answer import Answer, BadAnswer

HEAD = b"HTTP/1.1 200 OK\r\n"


def answer(max_answer_bytes: int = 1000, max_header_bytes: int = 500) -> Answer:
    return Answer(max_answer_bytes, max_header_bytes)


def taken(*pieces: bytes, **limits: int) -> Answer:
    """Feed the pieces; all but the last must leave the answer open, the last must complete it."""
    it = answer(**limits)
    assert [it.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return it


def refused(*pieces: bytes, **limits: int) -> str:
    def read() -> None:
        it = answer(**limits)
        for piece in pieces:
            it.feed(piece)
        it.response()

    with pytest.raises(BadAnswer) as caught:
        read()
    return str(caught.value)


def encoded(coding: bytes, body: bytes) -> bytes:
    return HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(body), body)


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def test_a_body_of_known_length_is_read():
    it = taken(HEAD + b"Content-Length: 3\r\n\r\nabc")
    response = it.response()
    assert (response.status, response.headers, response.body) == (200, {"content-length": "3"}, b"abc")
    assert it.reusable


def test_a_chunked_body_is_put_together_and_its_trailers_are_no_headers():
    it = taken(HEAD + b"Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert it.response().body == b"abc"
    assert it.response().headers == {"transfer-encoding": "Chunked"}
    assert it.reusable


def test_interim_answers_are_skipped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    it = answer()
    assert not it.feed(interim)
    assert it.status == 0
    assert it.feed(HEAD + b"Content-Length: 0\r\n\r\n")
    assert it.response().headers == {"content-length": "0"}


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"099 Odd", b"000 Odd"])
def test_a_status_that_answers_nothing_is_refused(status):
    assert "status" in refused(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")


def test_a_switch_of_protocols_is_refused():
    refused(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_ends_with_its_head(status):
    it = taken(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)
    assert it.response().body == b""
    assert it.reusable


def test_redirects_are_answers():
    it = taken(b"HTTP/1.1 307 X\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n")
    assert it.response().headers["location"] == "/y"


def test_repeated_and_empty_and_latin_1_headers_are_decoded():
    it = taken(HEAD + b"Vary: a\r\nX-Empty:\r\nvary: b\r\nX-Name: J\xf6rg\r\nContent-Length: 0\r\n\r\n")
    assert it.response().headers == {
        "vary": "a, b",
        "x-empty": "",
        "x-name": "Jörg",
        "content-length": "0",
    }


def test_a_body_without_length_ends_with_the_connection():
    it = answer()
    assert not it.ends_with_connection()
    assert not it.feed(HEAD + b"\r\nab")
    assert not it.feed(b"c")
    assert it.ends_with_connection()
    assert it.response().body == b"abc"
    assert not it.reusable


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_with_an_end_of_its_own_does_not_end_with_the_connection(framing):
    it = answer()
    it.feed(HEAD + framing + b"\r\n")
    assert not it.ends_with_connection()


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        (b"gzip", gzip.compress),
        (b"GZIP", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"identity", bytes),
    ],
)
def test_compressed_bodies_are_unpacked_also_byte_by_byte(coding, compress):
    data = encoded(coding, compress(b"hello " * 100))
    assert taken(data).response().body == b"hello " * 100
    assert taken(*[data[i : i + 1] for i in range(len(data))]).response().body == b"hello " * 100


def test_an_empty_body_may_call_itself_compressed():
    assert taken(encoded(b"gzip", b"")).response().body == b""


def test_a_coding_that_was_not_asked_for_is_refused():
    assert "Content-Encoding" in refused(encoded(b"br", b"xx"))
    assert "Content-Encoding" in refused(encoded(b"gzip, gzip", gzip.compress(gzip.compress(b"x"))))


def test_broken_or_cut_or_overlong_compression_is_refused():
    packed = gzip.compress(b"hello" * 50)
    assert "not valid gzip" in refused(encoded(b"gzip", b"no gzip at all"))
    assert "not valid gzip" in refused(encoded(b"gzip", packed[:-8] + b"\0" * 8))
    assert "cut short" in refused(encoded(b"gzip", packed[:-1]))
    assert "after the end" in refused(encoded(b"gzip", packed + b"x"))
    assert "after the end" in refused(encoded(b"gzip", packed + packed))
    assert "after the end" in refused(*[bytes([byte]) for byte in encoded(b"gzip", packed + b"x")])


def test_a_bomb_is_refused_without_being_unpacked():
    bomb = gzip.compress(bytes(50_000_000))
    data = encoded(b"gzip", bomb)
    tracemalloc.start()
    try:
        assert "larger than 100000 bytes" in refused(data, max_answer_bytes=100_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_body_may_be_as_large_as_the_limit_and_no_larger():
    for framing in (b"Content-Length: %d\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"):
        assert taken(HEAD + framing % (1000, b"x" * 1000)).response().body == b"x" * 1000
        assert "larger than 1000 bytes" in refused(HEAD + framing % (1001, b"x" * 1001))
    assert "larger than 1000 bytes" in refused(HEAD + b"\r\n", b"x" * 1001)
    packed = encoded(b"gzip", gzip.compress(b"x" * 1000))
    assert len(taken(packed).response().body) == 1000
    assert "larger than 1000 bytes" in refused(encoded(b"gzip", gzip.compress(b"x" * 1001)))


def test_chunk_headers_and_trailers_are_bounded_too():
    chunks = b"1;" + b"e" * 100 + b"\r\nx\r\n"
    assert "larger" in refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunks] * 20)
    trailers = [b"0\r\n", *[b"X: " + b"y" * 100 + b"\r\n"] * 20]
    assert "larger" in refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *trailers)


def test_headers_are_bounded_in_one_piece_in_many_and_over_interim_answers():
    assert "headers larger" in refused(HEAD + b"X: " + b"y" * 500 + b"\r\nContent-Length: 0\r\n\r\n")
    assert "headers larger" in refused(HEAD, b"X: ", *[b"y" * 50] * 20)
    assert "headers larger" in refused(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 50)
    assert "headers larger" in refused(*[b"\r\n" * 50] * 50)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"X: a\r\n folded: b\r\n",
        b"X : a\r\n",
        b"X: a\0b\r\n",
        b"X: a\nContent-Length: 3\r\n",
    ],
)
def test_framing_that_two_readers_could_read_differently_is_refused(lines):
    refused(HEAD + lines + b"\r\nabc")


def test_chunks_of_http_1_0_are_refused():
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"2\r\nabc\r\n", b"fffffffffffffffff\r\n", b"\r\n"])
def test_bad_chunks_are_refused(chunk):
    refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"\x15\x03\x01\0\2", b"HTTP/1.1 20 OK\r\n", b"HTTP/2 200\r\n"])
def test_what_is_not_http_is_refused(garbage):
    assert "not valid HTTP/1.1" in refused(garbage)


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"])
def test_a_connection_that_the_server_closes_is_not_used_again(head):
    it = taken(head + b"Content-Length: 1\r\n\r\nx")
    assert it.response().body == b"x"
    assert not it.reusable


COMPLETE = {
    "length": HEAD + b"Content-Length: 2\r\n\r\nok",
    "length, ending in a line end": HEAD + b"Content-Length: 4\r\n\r\nok\r\n",
    "nothing but line ends": HEAD + b"Content-Length: 4\r\n\r\n\r\n\r\n",
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "bodiless": b"HTTP/1.1 204 No Content\r\n\r\n",
    "gzip": encoded(b"gzip", gzip.compress(b"ok")),
}


@pytest.mark.parametrize("surplus", [b"\r\n", b"\n", b"\r\n\r\n", b"x", COMPLETE["length"], b"\0"])
@pytest.mark.parametrize("kind", COMPLETE)
def test_surplus_bytes_cost_the_connection_but_not_the_answer(kind, surplus):
    data = COMPLETE[kind]
    plain = taken(data).response()
    for cut in range(len(data) - 1):
        it = answer()
        it.feed(data[: cut + 1])
        assert it.feed(data[cut + 1 :] + surplus)
        assert it.response() == plain
        assert not it.reusable, f"cut at {cut}"


@pytest.mark.parametrize("kind", [kind for kind in COMPLETE if kind != "nothing but line ends"])
def test_an_answer_without_surplus_leaves_the_connection_reusable(kind):
    assert taken(COMPLETE[kind]).reusable


def test_the_server_may_say_how_long_it_keeps_the_connection():
    assert taken(HEAD + b"Keep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n").keep_alive_s == 5
    assert taken(HEAD + b"Keep-Alive: max=100\r\nContent-Length: 0\r\n\r\n").keep_alive_s is None
