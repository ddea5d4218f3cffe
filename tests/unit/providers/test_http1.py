"""One connection: what an exchange may end in, and when the connection may serve again."""

import asyncio
import os
import socket

import pytest

from tollhouse.providers.base import NotSent, OutcomeUnknown, TimedOut

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
HEAD_ONLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def fails(kit, served, script, error, match, **how) -> None:
    """Check that a call fails as expected, was sent at most once, and leaves the pool in order."""

    async def test(it, server):
        with pytest.raises(error, match=match) as caught:
            await kit.post(it, **how)
        assert type(caught.value) is error
        assert len(server.requests) == 1
        assert it._slots_taken == 0

    served(script, test)


def test_a_connection_that_was_closed_while_idle_is_never_used(kit, served):
    async def test(it, server):
        for count in (1, 2, 3):
            assert (await kit.post(it)).body == b"ok"
            await kit.until(lambda: not it._idle)
            assert server.accepted == len(server.requests) == count

    served(kit.scripted(OK), test)


@pytest.mark.parametrize("prank", ["closes", "speaks"])
def test_what_the_loop_has_not_read_yet_is_noticed(prank, kit, served):
    peers = []

    async def script(peer):
        peers.append(peer)
        await kit.always_ok(peer)

    async def test(it, server):
        await kit.post(it)
        # From here to the next request the loop does not run: only the socket itself knows.
        own_end = os.dup(peers[0].writer.transport.get_extra_info("socket").fileno())
        if prank == "closes":
            with socket.socket(fileno=own_end) as end:
                end.shutdown(socket.SHUT_WR)
        else:
            os.write(own_end, HEAD_ONLY + b"no")
            os.close(own_end)
        assert (await kit.post(it)).body == b"ok"
        assert server.accepted == 2

    served(script, test)


def test_bytes_on_an_idle_connection_close_it(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await kit.until(lambda: peer.server.said)
        await peer.send(HEAD_ONLY + b"no")
        await peer.client_gone()

    async def test(it, server):
        server.said = False
        await kit.post(it)
        server.said = True
        await kit.until(lambda: not it._idle)
        assert (await kit.post(it)).body == b"ok"
        assert server.accepted == 2

    served(script, test)


@pytest.mark.parametrize("first", [CLOSE, OK + b"\r\n", OK + HEAD_ONLY + b"no", OK.replace(b"1.1", b"1.0")])
def test_a_connection_is_used_again_only_after_a_clean_end(first, kit, served):
    async def test(it, server):
        assert (await kit.post(it)).body == b"ok"
        assert not it._idle
        assert (await kit.post(it)).body == b"ok"
        assert server.accepted == 2

    served(kit.scripted(first, OK), test)


def test_an_answer_to_half_a_request_does_not_put_the_rest_before_the_next_one(kit, served):
    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.client_gone()

    async def test(it, server):
        for count in (1, 2):
            assert (await kit.post(it, body=bytes(16_000_000))).status == 413
            assert not it._idle
            assert server.accepted == count

    served(script, test)


def test_a_body_without_length_ends_with_the_connection(kit, served):
    async def test(it, server):
        assert (await kit.post(it)).body == b"all of it"

    served(kit.scripted(b"HTTP/1.1 200 OK\r\n\r\nall of it"), test)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "in the middle"),
        (HEAD_ONLY + b"o", "in the middle"),
        (HEAD_ONLY.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n", "in the middle"),
        (b"rubbish", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nxx", "Content-Encoding"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b", "cut short"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "headers larger"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n" + bytes(34_000_000), "larger than"),
    ],
)
def test_an_answer_that_is_none_leaves_the_outcome_unknown(said, match, kit, served):
    fails(kit, served, kit.scripted(said), OutcomeUnknown, match)


@pytest.mark.parametrize("said", [b"", HEAD_ONLY, HEAD_ONLY + b"o"])
def test_a_reset_leaves_the_outcome_unknown(said, kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(said)
        peer.reset()

    fails(kit, served, script, OutcomeUnknown, "closed the connection")


def test_a_first_byte_that_does_not_come_times_out(kit, served):
    fails(kit, served, kit.silent, TimedOut, "did not begin", first_byte_timeout_s=0.03)


@pytest.mark.parametrize("first_byte_timeout_s", [None, 0.1, 5])
@pytest.mark.parametrize("script", ["silent", "stuck"])
def test_the_deadline_ends_an_exchange(script, first_byte_timeout_s, kit, served):
    match = "did not begin" if script == "silent" and first_byte_timeout_s == 0.1 else "deadline passed"
    how = {"timeout_s": 0.4, "first_byte_timeout_s": first_byte_timeout_s}
    fails(kit, served, getattr(kit, script), TimedOut, match, **how)


def test_after_the_head_only_the_deadline_counts(kit, served):
    async def script(peer):
        await peer.request()
        await peer.send(HEAD_ONLY)
        await asyncio.sleep(0.1)
        await peer.send(b"ok")

    async def test(it, server):
        assert (await kit.post(it, first_byte_timeout_s=0.05)).body == b"ok"

    served(script, test)


def test_each_exchange_on_a_connection_has_its_own_deadlines(kit, served):
    async def script(peer):
        for pause_s in (0, 0.6, 60):
            await peer.request()
            await asyncio.sleep(pause_s)
            await peer.send(OK)

    async def test(it, server):
        assert (await kit.post(it, timeout_s=0.5)).body == b"ok"
        assert (await kit.post(it, timeout_s=9000, first_byte_timeout_s=5000)).body == b"ok"
        with pytest.raises(TimedOut, match="did not begin"):
            await kit.post(it, timeout_s=9000, first_byte_timeout_s=0.05)
        assert server.accepted == 1

    served(script, test)


def test_a_deadline_in_the_past_sends_nothing(kit, served):
    async def test(it, server):
        await kit.post(it)
        with pytest.raises(NotSent, match="deadline"):
            await kit.post(it, timeout_s=0)
        assert len(server.requests) == len(it._idle) == 1

    served(kit.always_ok, test)
