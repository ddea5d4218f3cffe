"""A server that answers as a script says, byte for byte: what no real Tollhouse would send, or only by misfortune."""

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

import msgspec

_TIMEOUT_S = 20.0


class Received(msgspec.Struct, frozen=True):
    """A request: the number of its connection, its head and its body."""

    connection: int
    head: str
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


Step = Callable[[socket.socket], bool]
"""Answers one request; False when the connection is to be closed then."""


def answer(
    status: int, body: object, *, headers: Mapping[str, object] | None = None, keep: bool = True, delay_s: float = 0
) -> Step:
    """Answer with JSON, or with text or bytes as they are."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    named = {"Content-Type": "application/json", "Content-Length": len(raw), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value is not None)

    def step(connection: socket.socket) -> bool:
        time.sleep(delay_s)
        connection.sendall(f"HTTP/1.1 {status} Reason\r\n{lines}\r\n".encode() + raw)
        return keep

    return step


def error(status: int, code: str, headers: Mapping[str, object] | None = None, *, keep: bool = True) -> Step:
    """Answer with an error in Tollhouse's own form."""
    body = {"error": code, "message": f"it is {code}", "request_id": "req_scripted"}
    return answer(status, body, headers={"X-Request-Id": "req_scripted", **(headers or {})}, keep=keep)


def completion(content: str = "Hello", **fields: object) -> Step:
    """Answer with a completion of the five fields that are always there, and some more."""
    envelope = {"content": content, "input_tokens": 3, "output_tokens": 2, "cost_usd": 0.000598, "request_id": "req_1"}
    return answer(200, {**envelope, **fields})


def raw(data: bytes, *, keep: bool = False) -> Step:
    """Send bytes, whatever they are."""

    def step(connection: socket.socket) -> bool:
        connection.sendall(data)
        return keep

    return step


def events(*pieces: bytes, pause_s: float = 0, end: bytes = b"0\r\n\r\n") -> Step:
    """Answer with an event stream, a piece a chunk."""

    def step(connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            time.sleep(pause_s)
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(end)
        return bool(end)

    return step


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def hang_up(_: socket.socket) -> bool:
    """Close without an answer."""
    return False


def reset(connection: socket.socket) -> bool:
    """Cut the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(connection: socket.socket) -> bool:
    """Answer nothing until the client leaves."""
    connection.recv(1)
    return False


class ScriptedServer:
    """Answers its requests one step each, the last step over and over; a context manager.

    Attributes:
        requests: what has come.
        connections: how many were accepted.
    """

    def __init__(self, *steps: Step, certificate: tuple[str, str] | None = None) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self._steps = list(steps)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def script(self, *steps: Step) -> None:
        """Answer from now on so."""
        with self._lock:
            self._steps = list(steps)

    def cut(self) -> None:
        """End all connections, as a server that restarts does."""
        with self._lock:
            for connection in self._open:
                # One may be gone already.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(_TIMEOUT_S)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        connection = plain
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(plain, server_side=True)
            while (received := _read(connection, number)) is not None:
                with self._lock:
                    self.requests.append(received)
                    step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                if not step(connection):
                    break
        except OSError:
            # The client left, which some tests are about.
            pass
        finally:
            with self._lock:
                self._open.discard(plain)
            connection.close()


def _read(connection: socket.socket, number: int) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    received = Received(number, head.decode(), body)
    length = int(received.header("content-length") or 0)
    while len(body) < length:
        if not (more := connection.recv(65536)):
            return None
        body += more
    return Received(number, head.decode(), body)
