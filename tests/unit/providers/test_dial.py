"""Connecting: TLS that verifies, and proxies. Whatever goes wrong here was not sent."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from tollhouse.providers.base import NotSent, OutcomeUnknown
from tollhouse.providers.dial import default_tls

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Proxy:
    """A forward proxy's script: keeps the heads it got, and tunnels to ``port`` whatever host it is asked for."""

    def __init__(self, port: int | None, answer: bytes = b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n"):
        self.port, self.answer = port, answer
        self.heads: list[bytes] = []

    async def __call__(self, peer) -> None:
        self.heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        if not self.answer.startswith(b"HTTP/1.1 200") or self.port is None:
            await peer.send(self.answer)
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await peer.send(self.answer[:20], self.answer[20:])
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(pipe(peer.reader, writer)),
                    asyncio.create_task(pipe(reader, peer.writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            writer.transport.abort()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_verified_server_is_used_and_its_connection_serves_again(host, run, kit, authority):
    async def main() -> None:
        async with kit.RawServer(kit.always_ok, tls=authority.server("127.0.0.1", "localhost")) as server:
            async with kit.upstream(f"https://{host}:{server.port}", tls=authority.client()) as it:
                await it.probe(20)
                for _ in range(3):
                    assert (await kit.post(it, body=b"x" * 300_000)).body == b"ok"
            assert server.accepted == 2
            assert len(server.requests) == 3

    run(main())


def test_by_default_the_roots_of_the_environment_verify_and_http_1_1_is_asked_for(run, kit, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.roots))
    default_tls.cache_clear()
    chosen = []

    async def script(peer):
        chosen.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await kit.always_ok(peer)

    async def main() -> None:
        async with (
            kit.RawServer(script, tls=authority.server("127.0.0.1")) as server,
            kit.upstream(server.url) as it,
        ):
            assert (await kit.post(it)).body == b"ok"
        assert chosen == ["http/1.1"]

    try:
        run(main())
    finally:
        default_tls.cache_clear()


@pytest.mark.parametrize("fault", ["wrong host", "unknown authority"])
def test_a_certificate_that_does_not_fit_is_refused_before_anything_is_sent(fault, run, kit, authority):
    client = authority.client() if fault == "wrong host" else ssl.create_default_context()
    names = ["other.example"] if fault == "wrong host" else ["127.0.0.1"]

    async def main() -> None:
        async with (
            kit.RawServer(kit.always_ok, tls=authority.server(*names)) as server,
            kit.upstream(server.url, tls=client) as it,
        ):
            for attempt in (kit.post(it), it.probe(20)):
                with pytest.raises(NotSent, match="certificate was refused"):
                    await attempt
            assert server.requests == []

    run(main())


@pytest.mark.parametrize("manners", ["silent", "plain", "hangs up"])
def test_a_server_that_does_not_speak_tls_is_not_sent_to(manners, run, kit, authority):
    async def script(peer):
        if manners == "hangs up":
            return
        if manners == "plain":
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.client_gone()

    async def main() -> None:
        async with (
            kit.RawServer(script) as server,
            kit.upstream(f"https://127.0.0.1:{server.port}", tls=authority.client(), connect_timeout_s=0.1) as it,
        ):
            with pytest.raises(NotSent, match="no connection to 127"):
                await kit.post(it)
            with pytest.raises(NotSent, match="no connection to 127"):
                await kit.post(it, timeout_s=0.02)
            with pytest.raises(NotSent, match="no connection to 127"):
                await it.probe(0.02)

    run(main())


def late(port, pause_s, *, consent=b""):
    """Return a script that stands before the server at ``port`` and passes nothing on for a while.

    With ``consent`` it is a proxy, which pauses before it gives it as well.
    """

    async def script(peer):
        if consent:
            await peer.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(pause_s)
            await peer.send(consent)
        await asyncio.sleep(pause_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pipe(peer.reader, writer), pipe(reader, peer.writer))
        finally:
            writer.transport.abort()

    return script


async def gives_up_connecting(kit, it):
    """Check that a call is not sent, for want of a connection, long before its deadline."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 20
    with pytest.raises(NotSent, match="took too long"):
        await kit.post(it, timeout_s=20)
    assert loop.time() < deadline_s
    assert it._slots_taken == 0


def test_tcp_that_is_not_accepted_in_time_is_given_up(run, kit):
    async def main() -> None:
        # Once its queue is full, Linux leaves further connections unanswered.
        with socket.socket() as listener, contextlib.ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            host, port = listener.getsockname()
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((host, port))
            async with kit.upstream(f"http://{host}:{port}", connect_timeout_s=0.05) as it:
                await gives_up_connecting(kit, it)

    run(main())


def test_tls_that_is_not_agreed_on_in_time_is_given_up(run, kit, authority):
    async def main() -> None:
        async with (
            kit.RawServer(kit.always_ok, tls=authority.server("127.0.0.1")) as server,
            kit.RawServer(late(server.port, 0.3)) as before,
            kit.upstream(f"https://127.0.0.1:{before.port}", tls=authority.client(), connect_timeout_s=0.1) as it,
        ):
            await gives_up_connecting(kit, it)
            assert server.requests == []

    run(main())


def test_all_steps_of_connecting_share_one_timeout(run, kit, authority):
    async def main() -> None:
        consent = b"HTTP/1.1 200 OK\r\n\r\n"
        async with (
            kit.RawServer(kit.always_ok, tls=authority.server("api.example")) as server,
            kit.RawServer(late(server.port, 0.2, consent=consent)) as proxy,
            kit.upstream(
                "https://api.example", tls=authority.client(), proxy_url=proxy.url, connect_timeout_s=0.3
            ) as it,
        ):
            # Neither the tunnel nor TLS takes longer than is allowed, but both together do.
            await gives_up_connecting(kit, it)
            assert server.requests == []

    run(main())


def test_a_call_cancelled_while_connecting_leaves_nothing_behind(run, kit, authority):
    async def script(peer):
        await peer.client_gone()

    async def main() -> None:
        async with (
            kit.RawServer(script) as server,
            kit.upstream(f"https://127.0.0.1:{server.port}", tls=authority.client(), max_connections=2) as it,
        ):
            calls = [asyncio.create_task(kit.post(it)) for _ in range(6)]
            await kit.until(lambda: server.open == 2)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await kit.until(lambda: server.open == 0)
            assert it._slots_taken == 0
            assert server.accepted == 2

    run(main())


@pytest.mark.parametrize("goodbye", [True, False])
def test_over_tls_a_body_without_length_needs_a_goodbye(goodbye, run, kit, authority):
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await asyncio.sleep(0.05)
        if goodbye:
            peer.writer.close()
            await peer.client_gone()
        else:
            peer.writer.transport.abort()

    async def main() -> None:
        async with (
            kit.RawServer(script, tls=authority.server("127.0.0.1")) as server,
            kit.upstream(server.url, tls=authority.client()) as it,
        ):
            if goodbye:
                assert (await kit.post(it)).body == b"all of it"
            else:
                with pytest.raises(OutcomeUnknown, match="in the middle"):
                    await kit.post(it)

    run(main())


def test_a_tls_connection_that_was_closed_while_idle_is_never_used(run, kit, authority):
    async def main() -> None:
        async with (
            kit.RawServer(kit.scripted(OK), tls=authority.server("127.0.0.1")) as server,
            kit.upstream(server.url, tls=authority.client()) as it,
        ):
            for count in (1, 2):
                assert (await kit.post(it)).body == b"ok"
                await kit.until(lambda: not it._idle)
                assert server.accepted == count

    run(main())


def test_https_goes_through_a_tunnel_that_sees_only_the_name(run, kit, authority):
    async def main() -> None:
        async with kit.RawServer(kit.always_ok, tls=authority.server("api.example")) as server:
            proxy = Proxy(server.port)
            async with (
                kit.RawServer(proxy) as outer,
                kit.upstream(
                    "https://api.example/v1",
                    tls=authority.client(),
                    proxy_url=f"http://me:secret@127.0.0.1:{outer.port}",
                ) as it,
            ):
                for _ in range(3):
                    assert (await kit.post(it, body=b"x" * 300_000)).body == b"ok"
                await it.probe(20)
            assert len(server.requests) == 3
            assert server.requests[0].startswith(b"POST /v1/v1/x HTTP/1.1\r\nHost: api.example\r\n")
            assert b"Proxy" not in server.requests[0]
            head = (
                b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n"
                b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
            )
            assert proxy.heads == [head, head]

    run(main())


def test_the_proxy_itself_may_be_reached_by_tls(run, kit, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.roots))
    default_tls.cache_clear()

    async def main() -> None:
        async with kit.RawServer(kit.always_ok, tls=authority.server("api.example")) as server:
            proxy = Proxy(server.port)
            async with (
                kit.RawServer(proxy, tls=authority.server("127.0.0.1")) as outer,
                kit.upstream("https://api.example", proxy_url=outer.url) as it,
            ):
                for _ in range(2):
                    assert (await kit.post(it)).body == b"ok"
            assert len(proxy.heads) == 1

    try:
        run(main())
    finally:
        default_tls.cache_clear()


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "status 407"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "more than its consent"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"", "closed the connection"),
        (b"rubbish\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "could be made"),
    ],
)
def test_a_proxy_that_does_not_consent_means_not_sent(answer, match, run, kit, authority):
    async def main() -> None:
        async with (
            kit.RawServer(Proxy(None, answer)) as outer,
            kit.upstream("https://api.example", tls=authority.client(), proxy_url=outer.url) as it,
        ):
            with pytest.raises(NotSent, match=match) as caught:
                await kit.post(it)
            assert "secret" not in str(caught.value)
            assert it._slots_taken == 0

    run(main())


def test_a_proxy_that_never_answers_means_not_sent(run, kit, authority):
    async def script(peer):
        await peer.client_gone()

    async def main() -> None:
        async with kit.RawServer(script) as outer:
            url = "https://api.example"
            async with kit.upstream(url, proxy_url=outer.url, connect_timeout_s=0.05) as it:
                with pytest.raises(NotSent, match="took too long"):
                    await kit.post(it)
            await kit.until(lambda: outer.open == 0)

    run(main())


def test_the_certificate_behind_a_tunnel_is_verified(run, kit, authority):
    async def main() -> None:
        async with (
            kit.RawServer(kit.always_ok, tls=authority.server("other.example")) as server,
            kit.RawServer(Proxy(server.port)) as outer,
            kit.upstream("https://api.example", tls=authority.client(), proxy_url=outer.url) as it,
        ):
            with pytest.raises(NotSent, match="certificate was refused"):
                await kit.post(it)
            assert server.requests == []

    run(main())


def test_http_is_carried_by_the_proxy(run, kit):
    async def main() -> None:
        async with (
            kit.RawServer(kit.always_ok) as outer,
            kit.upstream("http://api.example:81/v1?a=1", proxy_url=f"http://me:secret@127.0.0.1:{outer.port}") as it,
        ):
            assert (await kit.post(it)).body == b"ok"
            assert outer.requests[0].startswith(
                b"POST http://api.example:81/v1/v1/x?a=1 HTTP/1.1\r\nHost: api.example:81\r\n"
            )
            assert b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n" in outer.requests[0]

    run(main())


def test_an_ipv6_literal_is_reached(run, kit):
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")

    async def main() -> None:
        async with kit.RawServer(kit.always_ok, host="::1") as server:
            async with kit.upstream(f"http://[::1]:{server.port}") as it:
                assert (await kit.post(it)).body == b"ok"
            assert b"\r\nHost: [::1]:%d\r\n" % server.port in server.requests[0]

    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    run(main())
