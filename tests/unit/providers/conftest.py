"""Servers on loopback that send exactly the bytes a test wants."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tollhouse.providers.base import WireRequest
from tollhouse.providers.transport import TransportLimits, Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One accepted connection, as a test's script sees it."""

    def __init__(self, server: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer

    async def request(self):
        """Read one whole request and keep it; raises IncompleteReadError when the client is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        request = head + await self.reader.readexactly(length)
        self.server.requests.append(request)
        return request

    async def send(self, *pieces):
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self):
        """Close so that the client's kernel reports a reset instead of an end."""
        self.writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def client_gone(self):
        """Wait until the client has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


class RawServer:
    """Runs ``script(peer)`` for every connection; a failed script fails the test."""

    def __init__(
        self, script: Callable[[Peer], Awaitable[None]], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.script, self.host, self.tls = script, host, tls
        self.requests: list[bytes] = []
        self.accepted = self.open = self.most_open = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.failures: list[Exception] = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._accept, self.host, 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.failures and error[1] is None:
            raise self.failures[0]

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(cast("asyncio.Task[None]", asyncio.current_task()))
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self.script(Peer(self, reader, writer))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            pass
        except Exception as failure:
            self.failures.append(failure)
        finally:
            self.open -= 1
            writer.transport.abort()


def scripted(*answers):
    """Return a script that answers the requests of a connection one after the other, then hangs up."""

    async def script(peer):
        for answer in answers:
            await peer.request()
            await peer.send(answer)

    return script


async def always_ok(peer):
    while True:
        await peer.request()
        await peer.send(OK)


async def silent(peer):
    """Read a request, and never answer more than an interim answer."""
    await peer.request()
    await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await peer.client_gone()


async def stuck(peer):
    """Read a request, and never send more than an answer's head."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    await peer.client_gone()


async def until(condition):
    """Wait for what other tasks of the loop bring about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def upstream(url, *, tls=None, proxy_url=None, **limits):
    """Give an Upstream, and check at the end that no slot, waiter or connection of it is left over."""
    it = Upstream(url, limits=TransportLimits(**limits), tls=tls, proxy_url=proxy_url)
    try:
        yield it
        assert it._slots_taken == len(it._idle), "every slot that is not idle was given back"
        assert not it._waiters
    finally:
        await it.close()
    assert it._slots_taken == 0
    assert not it._idle
    assert not it._connections


async def post(it, *, body=b"{}", timeout_s=20.0, first_byte_timeout_s=None, path="/v1/x", headers=()):
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    return await it.post(
        WireRequest(path, headers, body), deadline_s=deadline_s, first_byte_timeout_s=first_byte_timeout_s
    )


class Kit:
    """What the tests of this directory share; test modules cannot import from each other."""

    OK = OK
    RawServer = RawServer
    scripted = staticmethod(scripted)
    always_ok = staticmethod(always_ok)
    silent = staticmethod(silent)
    stuck = staticmethod(stuck)
    until = staticmethod(until)
    upstream = staticmethod(upstream)
    post = staticmethod(post)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on either loop: the one that serves, and the one that others may use."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture
def served(run):
    """Run ``test(upstream, server)`` against a server that runs ``script`` for each connection."""

    def serve(script, test, *, suffix="", **limits):
        async def main() -> None:
            async with RawServer(script) as server, upstream(server.url + suffix, **limits) as it:
                await test(it, server)

        run(main())

    return serve


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority: gives (server_context, client_context) for the names of a server."""
    return _Authority(tmp_path_factory.mktemp("tls"))


class _Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self.roots = folder / "roots.pem"
        self.certificate = self._sign(self.name, self.key, [], is_ca=True)
        self.roots.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names):
        """Return the context of a server whose certificate holds ``names``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._sign(subject, key, names, is_ca=False)
        file = self.folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def client(self):
        return ssl.create_default_context(cafile=str(self.roots))

    def _sign(self, subject, key, names, *, is_ca) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if is_ca:
            builder = builder.add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), False)
        return builder.sign(self.key, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
