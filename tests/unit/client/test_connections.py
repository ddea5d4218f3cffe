"""The pools of connections: kept, bounded, never shared by mistake, and trusted only with a certificate."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness.python_client import Asyncio
from harness.scripted import ScriptedServer, answer, completion, raw, silence
from tollhouse.client import AsyncClient, CallOptions, Client, RetryPolicy, errors

CALL: CallOptions = {"model": "m", "user_message": "Hello"}


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr("tollhouse.client.request.GRACE_S", 0.1)


def test_a_connection_is_used_again(server, client):
    for _ in range(5):
        client.complete(**CALL)
    assert server.connections == 1


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure(server, client):
    server.script(completion(), completion(keep=False), completion())
    for _ in range(4):
        client.complete(**CALL)
        server.cut()
    assert server.connections == 4
    assert client.pauses_s == []
    assert client.client.circuit == "closed"


def test_a_connection_that_the_server_closes_as_the_request_arrives_is_no_failure(server, client):
    server.script(completion(), lambda _: False, completion())
    client.complete(**CALL)
    client.complete(**CALL)
    assert (len(server.requests), server.connections, client.pauses_s) == (3, 2, [])
    assert server.requests[1].head == server.requests[2].head


def test_a_connection_that_says_what_nobody_asked_for_is_not_used_again(server, client):
    body = b'{"content":"%b","input_tokens":1,"output_tokens":1,"cost_usd":0,"request_id":"r"}'
    mine = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body % b"mine"), body % b"mine")
    server.script(raw(mine + mine.replace(b"mine", b"evil"), keep=True), completion("also mine"))
    assert client.complete(**CALL).content == "mine"
    assert client.complete(**CALL).content == "also mine"
    assert server.connections == 2


def test_what_a_gateway_says_to_an_idle_connection_is_no_answer_to_the_next_call(server, client):
    has_said = threading.Event()

    def answers_and_says_farewell(connection):
        completion()(connection)
        threading.Event().wait(0.02)
        connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        has_said.set()
        return True

    server.script(answers_and_says_farewell, completion("Hello again"))
    client.complete(**CALL)
    assert has_said.wait(5)
    if isinstance(client, Asyncio):
        # Its connections hear of what comes while its loop runs.
        client.run(lambda: asyncio.sleep(0.02))
    assert client.complete(**CALL).content == "Hello again"
    assert (server.connections, client.pauses_s) == (2, [])


def test_a_connection_is_closed_when_the_server_says_so(server, client):
    server.script(
        answer(503, {"error": "ai_unavailable", "message": "m"}, headers={"Connection": "close"}), completion()
    )
    client.complete(**CALL)
    assert server.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(server, make):
    client = make(idle_timeout_s=0.001)
    client.complete(**CALL)
    threading.Event().wait(0.02)
    client.complete(**CALL)
    assert server.connections == 2


def test_an_answer_that_comes_before_the_request_is_through_is_read(make):
    said = b'{"error":"ai_request_too_large","message":"m","request_id":"r"}'
    head = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(said)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(head + said)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = make(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(errors.RequestTooLarge):
            client.complete(model="m", user_message="x" * 5_000_000)
        thread.join()


def test_no_more_connections_than_allowed_and_no_waiting_beyond_the_deadline(server):
    server.script(completion(), *[silence] * 2)
    with Client(server.url, "k", max_connections=2, timeout_s=1) as client:
        client.complete(**CALL)

        def wait():
            with pytest.raises(errors.NoAnswer):
                client.complete(**CALL)

        stuck = [threading.Thread(target=wait) for _ in range(2)]
        for thread in stuck:
            thread.start()
        while len(server.requests) < 3:
            threading.Event().wait(0.005)
        with pytest.raises(errors.PoolExhausted, match="all 2 connections"):
            client.complete(model="m", user_message="Hello", timeout_s=0.01)
        assert server.connections == 2
        assert client.circuit == "closed"
        server.cut()
        for thread in stuck:
            thread.join()


def test_many_threads_share_a_client(server):
    with Client(server.url, "k", max_connections=4) as client:
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.extend(client.complete(**CALL).content for _ in range(20)))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["Hello"] * 240
    assert server.connections <= 4
    assert len({request.header("idempotency-key") for request in server.requests}) == 240


def test_many_tasks_share_a_client(server):
    async def main():
        async with AsyncClient(server.url, "k", max_connections=4) as client:
            return await asyncio.gather(*(client.complete(**CALL) for _ in range(60)))

    assert [each.content for each in asyncio.run(main())] == ["Hello"] * 60
    assert server.connections <= 4


def test_uvloops_event_loop_will_do(server):
    async def main():
        client = AsyncClient(server.url, "th_key")
        answer = await client.complete(model="m", user_message="q")
        await client.close()
        return answer.content

    assert uvloop.run(main())


def test_a_cancelled_call_gives_everything_back(server):
    server.script(silence, completion())

    async def main():
        async with AsyncClient(server.url, "k", max_connections=1) as client:
            task = asyncio.create_task(client.complete(**CALL))
            while not server.requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.circuit == "closed"
            return (await client.complete(**CALL)).content

    assert asyncio.run(main()) == "Hello"
    assert len(server.requests) == 2


def test_a_cancelled_probe_lets_another_call_probe(server):
    now_s = [0.0]

    async def main():
        silent: list[float] = []

        async def no_pause(pause_s):
            silent.append(pause_s)

        async with AsyncClient(server.url, "k", clock=lambda: now_s[0], sleep=no_pause) as client:
            server.script(lambda _: False)
            for _ in range(2):
                with pytest.raises(errors.ConnectionLost):
                    await client.complete(**CALL)
            states = lambda: client.circuit
            assert states() == "open"
            now_s[0] += 30
            server.script(silence, completion())
            before = len(server.requests)
            task = asyncio.create_task(client.complete(**CALL))
            while len(server.requests) == before:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert states() == "half-open"
            assert (await client.complete(**CALL)).content == "Hello"
            assert states() == "closed"

    asyncio.run(main())


def test_a_closed_client_says_so(server, client):
    client.complete(**CALL)
    if isinstance(client, Asyncio):
        client.run(client.client.close)
    else:
        client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.complete(**CALL)
    assert len(server.requests) == 1


def test_an_asyncio_client_is_of_one_event_loop(server):
    client = AsyncClient(server.url, "k")
    with asyncio.Runner() as first:
        first.run(client.complete(**CALL))
        with pytest.raises(RuntimeError, match="another event loop"):
            threading_result(lambda: asyncio.run(client.complete(**CALL)))
        first.run(client.close())


def threading_result(function):
    """Run a function in a thread, since this one has a loop already."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


FORKS = """
import os, sys
from tollhouse.client import Client
client = Client(sys.argv[1], "k")
call = {"model": "m", "user_message": "Hello"}
client.complete(**call)
child = os.fork()
client.complete(**call)
if not child:
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
client.complete(**call)
client.close()
"""


def test_a_forked_child_has_connections_of_its_own(server):
    subprocess.run([sys.executable, "-W", "error", "-c", FORKS, server.url], check=True, timeout=60)
    by_connection = [request.connection for request in server.requests]
    assert server.connections == 2
    assert sorted((by_connection.count(1), by_connection.count(2))) == [1, 3]


HEAVY = {"asyncio", "ssl", "httptools", "litestar", "sqlalchemy", "uvicorn", "uvloop", "cryptography", "genai_prices"}


def test_importing_the_client_is_light():
    program = "import sys, tollhouse.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "tollhouse.client.blocking" in loaded
    assert HEAVY.isdisjoint(loaded)
    ours = {name for name in loaded if name.startswith("tollhouse.") and not name.startswith("tollhouse.client")}
    assert ours == set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tuple(map(str, paths))


@pytest.fixture
def tls_server(certificate):
    with ScriptedServer(completion(), certificate=certificate) as server:
        yield server


def test_a_certificate_that_nobody_vouches_for_is_refused_and_nothing_sent(tls_server, make):
    client = make(tls_server.url)
    with pytest.raises(errors.TrustRefused, match="is not trusted"):
        client.complete(**CALL)
    assert tls_server.requests == []
    assert client.pauses_s == []


@pytest.mark.parametrize("how", ["ca_file", "ssl_context"])
def test_an_authority_of_ones_own(tls_server, certificate, make, how):
    given = certificate[0] if how == "ca_file" else ssl.create_default_context(cafile=certificate[0])
    client = make(tls_server.url, **{how: given})
    for _ in range(2):
        assert client.complete(**CALL).content == "Hello"
    assert tls_server.connections == 1


def test_a_certificate_of_another_host_is_refused(tls_server, certificate, make):
    client = make(tls_server.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0])
    with pytest.raises(errors.TrustRefused):
        client.complete(**CALL)
    assert tls_server.requests == []


def test_a_file_of_authorities_that_is_not_there_is_told_at_once(make):
    with pytest.raises(OSError, match="No such file"):
        make("https://127.0.0.1:9", ca_file="/nowhere/ca.pem")


def test_tls_where_none_is_spoken_is_no_connection(server, make):
    with pytest.raises(errors.NotConnected):
        make(server.url.replace("http:", "https:"), connect_timeout_s=0.1, retry=RetryPolicy(max_tries=1)).complete(
            **CALL
        )
