"""The pool and its promises: what was sent once is never sent again, and no slot is ever lost."""

import asyncio
import random

import pytest

from harness.garbage import garbage_of
from tollhouse.providers.base import NotSent, OutcomeUnknown, ProviderError, TimedOut
from tollhouse.providers.transport import TransportLimits, Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
HEAD_ONLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def test_a_request_is_one_exact_message_and_its_connection_serves_again(kit, served):
    async def test(it, server):
        for _ in range(3):
            answer = await kit.post(it, path="/chat?alt=1", headers=(("x-api-key", "k"),), body=b'{"a":1}')
            assert (answer.status, answer.body) == (200, b"ok")
        assert server.accepted == 1
        host = f"127.0.0.1:{server.port}".encode()
        assert (
            server.requests
            == [
                b"POST /openai/v1/chat?alt=1&api-version=2024-10-21 HTTP/1.1\r\nHost: " + host + b"\r\n"
                b"User-Agent: tollhouse\r\nAccept-Encoding: gzip\r\nx-api-key: k\r\n"
                b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
            ]
            * 3
        )

    served(kit.always_ok, test, suffix="/openai/v1?api-version=2024-10-21")


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nX: y", "/a\0", "/ä", "/a#b"])
def test_a_path_that_would_break_the_request_apart_is_refused(path, kit, served):
    async def test(it, server):
        with pytest.raises(ValueError, match="path"):
            await kit.post(it, path=path)
        assert server.accepted == 0

    served(kit.always_ok, test)


@pytest.mark.parametrize(
    "header",
    [
        *[("x", f"secret{bad}") for bad in ("\r\nY: z", "\n", "\r", "\0", "\x7f", "€")],
        *[(name, "secret") for name in ("", "a b", "a:", "x\r\ny", "ä")],
        *[(name, "secret") for name in ("Host", "content-LENGTH", "Transfer-Encoding", "Connection", "Expect")],
    ],
)
def test_a_header_that_would_break_the_request_apart_is_refused(header, kit, served):
    async def test(it, server):
        with pytest.raises(ValueError, match="header") as caught:
            await kit.post(it, headers=(header,))
        assert "secret" not in str(caught.value)
        assert server.accepted == 0

    served(kit.always_ok, test)


def test_no_more_connections_than_allowed_and_the_waiting_are_served_in_order(kit, served):
    async def test(it, server):
        posts = [asyncio.create_task(kit.post(it, body=b"%d" % number)) for number in range(50)]
        await asyncio.gather(*posts)
        assert server.most_open == server.accepted == 1
        assert [int(request.rsplit(b"\r\n", 1)[1]) for request in server.requests] == list(range(50))

    served(kit.always_ok, test, max_connections=1)


@pytest.mark.parametrize("answer", [OK, CLOSE, OK + b"x"])
def test_many_calls_share_a_few_connections(answer, kit, served):
    async def script(peer):
        while True:
            await peer.request()
            await peer.send(answer)

    async def test(it, server):
        answers = await asyncio.gather(*[kit.post(it) for _ in range(60)])
        assert {answer.body for answer in answers} == {b"ok"}
        assert len(it._connections) <= 4

    served(script, test, max_connections=4)


def test_a_connection_that_is_handed_on_just_as_it_closes_is_replaced(kit, served):
    async def test(it, server):
        answers = await asyncio.gather(*[kit.post(it) for _ in range(20)])
        assert {answer.body for answer in answers} == {b"ok"}
        assert server.accepted == len(server.requests) == 20

    served(kit.scripted(OK), test, max_connections=2)


def test_the_connection_that_was_used_last_is_used_first(kit, served):
    async def script(peer):
        number = str(peer.server.accepted).encode()
        while True:
            await peer.request()
            await kit.until(lambda: peer.server.go)
            await peer.send(HEAD_ONLY.replace(b": 2", b": 1") + number)

    async def test(it, server):
        server.go = False
        first, second = (asyncio.create_task(kit.post(it)) for _ in range(2))
        await kit.until(lambda: len(server.requests) == 2)
        server.go = True
        await asyncio.gather(first, second)
        last = it._idle[-1]
        again = [await kit.post(it) for _ in range(5)]
        assert len({answer.body for answer in again}) == 1
        assert it._idle[-1] is last

    served(script, test)


def test_too_many_waiting_calls_are_not_sent(kit, served):
    async def test(it, server):
        sent = asyncio.create_task(kit.post(it))
        await kit.until(lambda: server.requests)
        for _ in range(2):
            waiting = [asyncio.create_task(kit.post(it, timeout_s=0.02)) for _ in range(3)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(result) for result in results] == [NotSent] * 3
            assert ["too many" in str(result) for result in results] == [False, False, True]
            assert not it._waiters
        waiting = [asyncio.create_task(kit.post(it)) for _ in range(2)]
        await kit.until(lambda: len(it._waiters) == 2)
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
        assert not it._waiters
        sent.cancel()
        await asyncio.wait([sent])
        assert len(server.requests) == 1

    served(kit.silent, test, max_connections=1, max_waiting=2)


def test_a_call_that_waits_for_a_connection_is_not_late_yet(kit, served):
    async def script(peer):
        await peer.request()
        await kit.until(lambda: peer.server.go)
        await peer.send(OK)
        await kit.always_ok(peer)

    async def test(it, server):
        server.go = False
        first = asyncio.create_task(kit.post(it))
        await kit.until(lambda: server.requests)
        second = asyncio.create_task(kit.post(it, first_byte_timeout_s=0.3))
        await asyncio.sleep(0.4)
        assert not second.done()
        server.go = True
        assert [answer.body for answer in await asyncio.gather(first, second)] == [b"ok"] * 2
        assert server.accepted == 1

    served(script, test, max_connections=1)


def test_a_connection_whose_answer_did_not_begin_in_time_is_not_used_again(kit, served):
    async def script(peer):
        if peer.server.accepted == 1:
            await kit.silent(peer)
        else:
            await kit.always_ok(peer)

    async def test(it, server):
        with pytest.raises(TimedOut, match="did not begin"):
            await kit.post(it, first_byte_timeout_s=0.03)
        assert (await kit.post(it)).body == b"ok"
        assert (server.accepted, len(server.requests)) == (2, 2)

    served(script, test)


def test_an_idle_connection_is_closed_after_its_time(kit, served):
    async def test(it, server):
        await kit.post(it)
        it._idle[0].unusable_at_s = 0
        await kit.post(it)
        assert server.accepted == 2
        await kit.until(lambda: not it._idle and server.open == 0)
        assert it._reaper is None

    served(kit.always_ok, test, idle_timeout_s=0.2)


@pytest.mark.parametrize(("hint", "accepted"), [(b"timeout=1", 2), (b"timeout=60, max=9", 1), (b"max=9", 1)])
def test_the_server_may_limit_how_long_a_connection_is_idle(hint, accepted, kit, served):
    answer = OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: " + hint + b"\r\n\r\n")

    async def test(it, server):
        await kit.post(it)
        await kit.post(it)
        assert server.accepted == accepted

    served(kit.scripted(answer, answer), test)


def test_a_cancelled_call_closes_its_connection(kit, served):
    async def test(it, server):
        call = asyncio.create_task(kit.post(it))
        await kit.until(lambda: server.requests)
        (connection,) = it._connections
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert it._slots_taken == 0
        assert connection._timer is None
        await kit.until(lambda: server.open == 0)

    served(kit.stuck, test)


def test_a_call_cancelled_as_its_turn_comes_passes_it_on(kit, served):
    async def test(it, server):
        async def first() -> None:
            await kit.post(it)
            # The connection has just been handed to the second call, which has not run since.
            assert second.cancel()

        opening = asyncio.create_task(first())
        await asyncio.sleep(0)
        second, third = (asyncio.create_task(kit.post(it)) for _ in range(2))
        await opening
        assert (await third).body == b"ok"
        assert second.cancelled()
        assert server.accepted == 1
        assert len(server.requests) == 2

    served(kit.always_ok, test, max_connections=1)


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_cancellations_loses_no_slot(seed, kit, served):
    dice = random.Random(seed)

    async def script(peer):
        patience = dice.randrange(1, 30)
        while patience or peer.server.calm:
            await peer.request()
            patience = max(patience - 1, 0)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            storm = dice.choice([OK, OK, OK, CLOSE, HEAD_ONLY, b"rubbish", b""])
            await peer.send(OK if peer.server.calm else storm)

    async def test(it, server):
        server.calm = False
        calls = []
        for _ in range(400):
            calls.append(asyncio.create_task(kit.post(it, timeout_s=dice.choice([0, 0.002, 0.01, 0.1]))))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            dice.choice(calls).cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        expected = ProviderError | asyncio.CancelledError
        assert [r for r in results if isinstance(r, BaseException) and not isinstance(r, expected)] == []
        assert it._slots_taken == len(it._idle) <= 3
        assert not it._waiters
        server.calm = True
        answers = await asyncio.gather(*[kit.post(it) for _ in range(20)])
        assert {answer.body for answer in answers} == {b"ok"}

    served(script, test, max_connections=3, max_waiting=20)


def test_a_probe_connects_and_sends_nothing(kit, served):
    async def test(it, server):
        await it.probe(5)
        await kit.until(lambda: server.accepted == 1 and server.open == 0)
        assert server.requests == []

    served(kit.always_ok, test, max_connections=1)


def test_what_cannot_be_reached_is_not_sent(run, kit):
    async def main() -> None:
        async with kit.RawServer(kit.always_ok) as server:
            url = server.url
        async with kit.upstream(url) as it:
            for _ in range(2):
                with pytest.raises(NotSent, match=r"127\.0\.0\.1 could be made: "):
                    await kit.post(it)
            with pytest.raises(NotSent):
                await it.probe(5)
        async with kit.upstream(f"http://{'a' * 64}.example") as it:
            with pytest.raises(NotSent):
                await kit.post(it)

    run(main())


def test_a_connection_that_could_not_be_made_leaves_nothing_to_the_garbage_collector(run, kit):
    async def main() -> None:
        async with kit.upstream("http://127.0.0.1:1") as it:

            async def fail() -> None:
                for _ in range(10):
                    with pytest.raises(NotSent):
                        await kit.post(it)

            assert await garbage_of(fail) < 10

    run(main())


def test_a_server_that_hangs_up_at_once_leaves_nothing_behind(kit, served):
    async def script(peer):
        pass

    async def test(it, server):
        dial = it._dialer.open

        async def dial_slowly(connection, until_s):
            await dial(connection, until_s)
            await connection.closed()

        it._dialer.open = dial_slowly
        with pytest.raises(NotSent, match="as soon as it was made"):
            await kit.post(it)
        with pytest.raises(NotSent, match="as soon as it was made"):
            await it.probe(20)
        assert not it._connections

    served(script, test)


def test_closing_ends_every_call_and_allows_no_more(run, kit):
    async def main() -> None:
        async with kit.RawServer(kit.silent) as server:
            it = Upstream(server.url, limits=TransportLimits(max_connections=1))
            calls = [asyncio.create_task(kit.post(it)) for _ in range(3)]
            await kit.until(lambda: server.requests)
            await it.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [OutcomeUnknown, NotSent, NotSent]
            with pytest.raises(NotSent, match="closed"):
                await kit.post(it)
            with pytest.raises(NotSent, match="closed"):
                await it.probe(5)
            assert (it._slots_taken, len(it._connections), server.accepted) == (0, 0, 1)
            await it.close()

    run(main())
