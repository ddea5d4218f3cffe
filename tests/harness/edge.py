"""Real edge gateways, as ``tollhouse edge`` configures them, and an upstream that does what a test asks."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pytest
from click.testing import CliRunner

from harness.service import Reply, eventually, free_port, reply_to
from tollhouse.cli.root import root

Kind = Literal["nginx", "envoy"]
KINDS: tuple[Kind, ...] = ("nginx", "envoy")
_WAIT_S = 30.0
_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def program(kind: Kind) -> str:
    """Return where an edge's program is; skips the test where it is not installed."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(kind) or shutil.which(kind, path=f"{beside}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{kind} is not installed here: apt-get install nginx-light, or the like")
    return found


class Edge:
    """A running nginx or Envoy.

    Attributes:
        tls: how requests are sent to it; None for plain HTTP.
    """

    tls: ssl.SSLContext | None = None

    def __init__(self, kind: Kind, directory: Path, *options: str) -> None:
        """Configure one on a free port; see ``tollhouse edge --help`` for the options."""
        self.kind = kind
        self.port = free_port()
        self.directory = directory
        self._program = program(kind)
        self._log = directory / "log"
        self.config_file = directory / ("nginx.conf" if kind == "nginx" else "envoy.yaml")
        arguments = ["edge", kind, "--address", "127.0.0.1", "-o", str(self.config_file), *options]
        if "--certificate" in options:
            arguments += ["--https-port", str(self.port)]
        else:
            arguments += ["--plain-http", "--http-port", str(self.port)]
        if kind == "nginx":
            arguments += ["--log-dir", str(directory), "--state-dir", str(directory)]
        result = CliRunner().invoke(root, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output

    def __enter__(self) -> Self:
        if self.kind == "nginx":
            command = [self._program, "-c", str(self.config_file), "-p", str(self.directory), "-g", "daemon off;"]
        else:
            once = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]
            command = [self._program, "-c", str(self.config_file), *once]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        try:
            eventually(self._serves, _WAIT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _serves(self) -> bool:
        assert self._process.poll() is None, self.log()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Return everything it has written down, on whatever way."""
        files = [self._log, *self.directory.glob("*.log")]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    # What it is asked.

    def connection(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("localhost", self.port, timeout=_WAIT_S, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_WAIT_S)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        **headers: str,
    ) -> Reply:
        """Send a request on a connection of its own; a body that is not bytes is sent as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, sent, named)
            return reply_to(connection)

    def raw(self, data: bytes) -> bytes:
        """Send bytes; return all that comes back until it closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_WAIT_S) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@dataclass(frozen=True)
class Received:
    """A request that came to a stub, once its body was whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for sent, value in self.headers if sent == name]


class Stub:
    """An upstream that does what a request's ``x-stub`` header says, and notes every request.

    | ``x-stub`` | it |
    |---|---|
    | none | answers 200 |
    | ``dies`` | closes the connection once the request is there |
    | ``silent`` | never answers |
    | ``events`` | sends an event, and the next when ``go`` is set |
    | ``beats`` | sends a comment each 0.3 s, eight in all |
    | ``websocket`` | upgrades, and sends back what it gets |
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.go = threading.Event()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._serving: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        fields = [line.partition(": ") for line in head[1:] if line]
        headers = [(name.lower(), value) for name, _, value in fields]
        named = dict(headers)
        if named.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(named.get("content-length", 0)))
        is_probe = target == "/readyz"
        if not is_probe:
            self.received.append(Received(method, target, headers, body))
        does = named.get("x-stub", "")
        if does == "dies":
            return False
        if does == "silent":
            await asyncio.sleep(3600)
        elif does in {"events", "beats"}:
            await self._stream(does, writer)
        elif does == "websocket":
            await _echo(named["sec-websocket-key"], reader, writer)
            return False
        else:
            answer = json.dumps({"bytes": len(body), "target": target}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(answer))
            writer.write(b"x-request-id: req_stub\r\n\r\n" + answer)
        await writer.drain()
        return True

    async def _stream(self, does: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if does == "beats":
            for _ in range(8):
                writer.write(b"9\r\n: beat..\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.3)
        else:
            writer.write(b"f\r\ndata: first..\n\n\r\n")
            await writer.drain()
            await asyncio.to_thread(self.go.wait, _WAIT_S)
            writer.write(b"f\r\ndata: second.\n\n\r\n")
        writer.write(b"0\r\n\r\n")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body


async def _echo(key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    accept = b64encode(hashlib.sha1((key + _WEBSOCKET_GUID).encode(), usedforsecurity=False).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: " + accept + b"\r\n\r\n"
    )
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Give a port that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as holder:
        # Bound, but not listening.
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
