"""Answers that are passed on as they come: nothing is held back, nothing lost, and the connection's fate is certain."""

import asyncio

import pytest

from tollhouse.providers.base import NotSent, OutcomeUnknown, TimedOut, WireRequest, WireResponse
from tollhouse.providers.incoming import Incoming

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\n"
ENDLESS = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000000\r\n\r\n"
MEBIBYTE = 1024 * 1024


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(*pieces):
    return CHUNKED + b"".join(map(chunk, pieces)) + LAST_CHUNK


async def open_(it, *, begin_s=20.0, total_s=20.0, first_byte_timeout_s=None, pause_s=20.0, may_send=None):
    now_s = asyncio.get_running_loop().time()
    return await it.open(
        WireRequest("/v1/x", (), b"{}"),
        begin_by_s=now_s + begin_s,
        deadline_s=now_s + total_s,
        first_byte_timeout_s=first_byte_timeout_s,
        pause_s=pause_s,
        may_send=may_send,
    )


async def rest_of(incoming):
    """Read to the end; return all that came, and what it failed with."""
    came = b""
    try:
        while data := await incoming.read():
            came += data
    except (OutcomeUnknown, TimedOut) as error:
        return came, error
    return came, None


def test_each_piece_is_there_as_soon_as_it_comes(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED)
        for piece in (b"one", b"two", b"three"):
            await peer.server.go.get()
            await peer.send(chunk(piece))
        await peer.send(LAST_CHUNK)
        await peer.client_gone()

    async def test(it, server):
        server.go = asyncio.Queue()
        incoming = await open_(it)
        assert isinstance(incoming, Incoming)
        assert incoming.headers["content-type"] == "text/event-stream"
        for piece in (b"one", b"two", b"three"):
            reading = asyncio.create_task(incoming.read())
            await asyncio.sleep(0.01)
            assert not reading.done()
            server.go.put_nowait(0)
            assert await reading == piece
        assert await incoming.read() == b""
        assert await incoming.read() == b"", "the end stays the end"
        incoming.close()
        assert b"Accept-Encoding: identity\r\n" in server.requests[0]

    served(script, test)


def test_the_connection_of_a_whole_answer_is_used_again(kit, served):
    async def script(peer):
        while True:
            await peer.request()
            await peer.send(whole(b"a", b"b"))

    async def test(it, server):
        for _ in range(3):
            incoming = await open_(it)
            assert await rest_of(incoming) == (b"ab", None)
            incoming.close()
            incoming.close()
        assert (server.accepted, len(it._idle)) == (1, 1)

    served(script, test)


def test_an_answer_that_is_closed_before_its_end_takes_its_connection_along(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED, chunk(b"a"))
        await peer.client_gone()
        peer.server.left += 1

    async def test(it, server):
        server.left = 0
        incoming = await open_(it)
        assert await incoming.read() == b"a"
        incoming.close()
        await kit.until(lambda: server.left == 1)
        assert not it._connections

    served(script, test, max_connections=1)


def test_an_answer_that_was_received_to_its_end_but_not_read_keeps_its_connection(kit, served):
    async def script(peer):
        while True:
            await peer.request()
            await peer.send(whole(b"x" * 10))

    async def test(it, server):
        for _ in range(2):
            incoming = await open_(it)
            await kit.until(lambda: incoming._has_ended)  # noqa: B023 - called before the next turn
            incoming.close()
        assert server.accepted == 1

    served(script, test)


def test_an_answer_of_another_status_comes_whole_and_gives_its_connection_back(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(REFUSED[:20], REFUSED[20:], b"bu", b"sy")
        await peer.request()
        await peer.send(whole(b"a"))
        await peer.client_gone()

    async def test(it, server):
        refused = await open_(it)
        assert isinstance(refused, WireResponse)
        assert (refused.status, refused.body, refused.headers["retry-after"]) == (429, b"busy", "3")
        assert len(it._idle) == 1
        incoming = await open_(it)
        assert await rest_of(incoming) == (b"a", None)
        incoming.close()
        assert server.accepted == 1

    served(script, test)


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8"])
def test_an_answer_in_json_is_no_stream_and_comes_whole(kind, kit, served):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind

    async def script(peer):
        await peer.request()
        await peer.send(head, chunk(b'{"a"'), chunk(b":1}"), LAST_CHUNK)
        await peer.request()
        await peer.send(whole(b"a"))
        await peer.client_gone()

    async def test(it, server):
        answer = await open_(it)
        assert isinstance(answer, WireResponse)
        assert (answer.status, answer.body) == (200, b'{"a":1}')
        incoming = await open_(it)
        assert await rest_of(incoming) == (b"a", None)
        incoming.close()
        assert server.accepted == 1

    served(script, test)


def test_an_answer_of_another_status_has_to_be_whole_by_the_time_to_begin(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(ENDLESS)
        while True:
            await peer.send(b"b")
            await asyncio.sleep(0.01)

    async def test(it, server):
        started_s = asyncio.get_running_loop().time()
        with pytest.raises(TimedOut):
            await open_(it, begin_s=0.1)
        assert asyncio.get_running_loop().time() - started_s < 5

    served(script, test)


@pytest.mark.parametrize("end", ["eof", "reset", "garbage"])
def test_an_answer_that_is_cut_off_fails_once_all_that_came_before_was_read(end, kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED, chunk(b"one"), chunk(b"two"))
        await kit.until(lambda: peer.server.has_read)
        if end == "reset":
            peer.reset()
        elif end == "garbage":
            await peer.send(chunk(b"last") + b"no chunk\r\n")
            await peer.client_gone()
        else:
            await peer.send(chunk(b"last"), b"7\r\ntrunc")

    async def test(it, server):
        server.has_read = False
        incoming = await open_(it)
        came = b""
        while came != b"onetwo":
            came += await incoming.read()
        server.has_read = True
        # All of it waits, the failure included, before anything is read.
        await kit.until(lambda: incoming._failure)
        came, failure = await rest_of(incoming)
        assert came == {"eof": b"lasttrunc", "reset": b"", "garbage": b"last"}[end]
        assert type(failure) is OutcomeUnknown
        incoming.close()
        assert not it._connections

    served(script, test)


def test_an_answer_without_a_length_ends_with_its_connection(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"b")

    async def test(it, server):
        incoming = await open_(it)
        assert await rest_of(incoming) == (b"ab", None)
        incoming.close()
        assert not it._connections

    served(script, test)


def test_an_answer_that_pauses_for_too_long_is_timed_out(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED, chunk(b"a"))
        await peer.client_gone()

    async def test(it, server):
        incoming = await open_(it, pause_s=0.05)
        came, failure = await rest_of(incoming)
        assert came == b"a"
        assert type(failure) is TimedOut
        assert "0.05 seconds in the midst" in str(failure)
        incoming.close()

    served(script, test)


def test_pauses_are_counted_from_what_came_last(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(10):
            await asyncio.sleep(0.05)
            await peer.send(chunk(b"a"))
        await peer.send(LAST_CHUNK)
        await peer.client_gone()

    async def test(it, server):
        incoming = await open_(it, begin_s=0.2, first_byte_timeout_s=0.2, pause_s=0.2)
        assert await rest_of(incoming) == (b"a" * 10, None), "0.5 s in all, beyond every bound but the deadline"
        incoming.close()

    served(script, test)


def test_an_answer_that_never_pauses_ends_at_the_deadline(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(chunk(b"a"))
            await asyncio.sleep(0.005)

    async def test(it, server):
        incoming = await open_(it, total_s=0.1)
        came, failure = await rest_of(incoming)
        assert len(came) > 3
        assert type(failure) is TimedOut
        incoming.close()

    served(script, test)


@pytest.mark.parametrize("bound", [{"begin_s": 0.05}, {"total_s": 0.05}, {"first_byte_timeout_s": 0.05}], ids=str)
def test_an_answer_that_does_not_begin_in_time_may_be_billed(bound, kit, served):
    async def test(it, server):
        with pytest.raises(TimedOut):
            await open_(it, **bound)
        assert len(server.requests) == 1

    served(kit.silent, test)


@pytest.mark.parametrize("bound", [{"begin_s": 0}, {"begin_s": -1}, {"total_s": 0}], ids=str)
def test_what_is_late_before_it_was_sent_is_not_sent(bound, kit, served):
    async def test(it, server):
        # An idle connection, so that nothing but the time is in the way.
        await kit.post(it)
        with pytest.raises(NotSent):
            await open_(it, **bound)
        assert len(server.requests) == 1
        assert len(it._idle) == 1, "the connection is as good as before"

    served(kit.always_ok, test)


def test_what_waits_for_a_connection_beyond_its_time_is_not_sent(kit, served):
    async def test(it, server):
        first = asyncio.create_task(open_(it))
        await kit.until(lambda: server.requests)
        with pytest.raises(NotSent):
            await open_(it, begin_s=0.05)
        assert len(server.requests) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    served(kit.silent, test, max_connections=1)


def test_what_may_not_be_sent_any_more_is_not_sent(kit, served):
    async def test(it, server):
        with pytest.raises(NotSent):
            await open_(it, may_send=lambda: False)
        assert server.requests == []

    served(kit.always_ok, test)


def test_whoever_stops_waiting_for_the_head_gives_the_slot_back(kit, served):
    async def test(it, server):
        opening = asyncio.create_task(open_(it))
        await kit.until(lambda: server.requests)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert it._slots_taken == 0

    served(kit.silent, test)


def flood(kit, pieces):
    """Send so many pieces of 64 KiB, noting how far it came."""

    async def script(peer):
        while True:
            await peer.request()
            peer.server.sent = 0
            await peer.send(CHUNKED)
            for _ in range(pieces):
                await peer.send(chunk(b"x" * 65536))
                peer.server.sent += 65536
            await peer.send(LAST_CHUNK)

    return script


async def stands_still(kit, server):
    """Wait until the server gets no more out."""
    before = -1
    while server.sent != before:
        before = server.sent
        await asyncio.sleep(0.2)


def test_a_reader_who_does_not_read_makes_the_server_wait(kit, served):
    async def test(it, server):
        incoming = await open_(it, pause_s=0.3)
        await kit.until(lambda: incoming.is_held)
        await stands_still(kit, server)
        # What waits here is bounded; the rest is in the kernel's buffers, or has not been sent.
        assert incoming._waiting_bytes < MEBIBYTE
        assert server.sent < 20 * MEBIBYTE
        await asyncio.sleep(0.4)
        # It was the reader that paused, and not the provider.
        came, failure = await rest_of(incoming)
        assert (len(came), failure) == (400 * 65536, None)
        incoming.close()
        assert len(it._idle) == 1

    served(flood(kit, 400), test, max_answer_bytes=64 * MEBIBYTE)


def test_an_answer_that_is_closed_while_it_waits_to_be_read_is_let_go(kit, served):
    async def test(it, server):
        incoming = await open_(it)
        await kit.until(lambda: incoming.is_held)
        incoming.close()
        assert it._slots_taken == 0
        await kit.until(lambda: server.open == 0)

    served(flood(kit, 400), test)


def test_a_reader_who_does_not_read_is_still_bound_by_the_deadline(kit, served):
    async def test(it, server):
        incoming = await open_(it, total_s=0.3)
        await kit.until(lambda: incoming.is_held)
        await kit.until(lambda: incoming._failure)
        came, failure = await rest_of(incoming)
        assert type(failure) is TimedOut
        assert 0 < len(came) < MEBIBYTE
        incoming.close()

    served(flood(kit, 400), test)


def test_a_stale_hold_never_touches_the_next_exchange(kit, served):
    async def script(peer):
        await peer.request()
        # More than may wait unread, and its end along with it.
        await peer.send(whole(*[b"x" * 65536] * 5))
        await peer.request()
        await peer.send(CHUNKED, chunk(b"a"))
        await kit.until(lambda: peer.server.go)
        await peer.send(chunk(b"b"), LAST_CHUNK)
        await peer.client_gone()

    async def test(it, server):
        server.go = False
        first = await open_(it)
        # The last piece before its end made the connection stop reading, or nearly so.
        await kit.until(lambda: first._has_ended or first.is_held)
        came = b""
        while not first._has_ended:
            came += await first.read()
        first.close()
        second = await open_(it)
        assert await second.read() == b"a"
        came += (await rest_of(first))[0]
        assert len(came) == 5 * 65536
        assert not first.is_held
        first.close()
        server.go = True
        assert await rest_of(second) == (b"b", None)
        second.close()
        assert server.accepted == 1

    served(script, test)


def test_what_is_read_after_the_end_no_longer_holds_or_lets_go_of_the_connection(run):
    async def main():
        asked: list[bool] = []
        incoming = Incoming(asked.append)
        incoming.add(b"x" * MEBIBYTE)
        assert asked == [True]
        incoming.end()
        assert len(await incoming.read()) == MEBIBYTE
        assert await incoming.read() == b""
        assert asked == [True], "the connection may be another exchange's by now"

    run(main())


def test_many_streams_at_once_each_get_their_own(kit, served):
    async def script(peer):
        while True:
            body = (await peer.request()).split(b"\r\n\r\n")[1]
            await peer.send(CHUNKED, *[chunk(body) for _ in range(5)], LAST_CHUNK)

    async def test(it, server):
        async def one(number):
            now_s = asyncio.get_running_loop().time()
            incoming = await it.open(
                WireRequest("/x", (), b"<%d>" % number), begin_by_s=now_s + 20, deadline_s=now_s + 20, pause_s=20
            )
            try:
                return await rest_of(incoming)
            finally:
                incoming.close()

        got = await asyncio.gather(*map(one, range(60)))
        assert got == [(b"<%d>" % number * 5, None) for number in range(60)]
        assert server.most_open <= 4

    served(script, test, max_connections=4)


def test_when_the_transport_closes_open_streams_fail(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED, chunk(b"a"))
        await peer.client_gone()

    async def test(it, server):
        incoming = await open_(it)
        await it.close()
        came, failure = await rest_of(incoming)
        assert came in {b"", b"a"}
        assert type(failure) is OutcomeUnknown
        incoming.close()

    served(script, test)
