"""HTTP/1.1 byte by byte, as clients, proxies and attackers may send it."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Self

from harness.calls import body_for
from harness.service import ADMIN_KEY, Reply, Service


class Wire:
    """A connection on which a test sends what it likes."""

    def __init__(self, service: Service) -> None:
        self._socket = service.socket()
        # What is sent by itself arrives by itself: the kernel would hold small segments back, and join them.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, *parts: bytes) -> Self:
        """Send each part as a segment of its own; raises OSError once the connection was closed."""
        for part in parts:
            self._socket.sendall(part)
            time.sleep(0.02)
        return self

    def reply(self) -> Reply:
        """Return the next answer, however its body is framed."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, b"".join(self.chunks()))
        length = int(headers.get("content-length", 0))
        return Reply(status, headers, self._take(length))

    def head(self) -> tuple[int, dict[str, str]]:
        """Return status and headers of the next answer, whose body is left to be read."""
        first, *lines = self._line(b"\r\n\r\n").decode().split("\r\n")
        assert first.startswith("HTTP/1.1 ")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a body as they come, which has to be whole."""
        while size := int(self._line(b"\r\n"), 16):
            yield self._take(size)
            assert self._line(b"\r\n") == b""
        assert self._line(b"\r\n") == b""

    def rest(self) -> bytes:
        """Return all that comes until the connection is closed."""
        while self._more():
            pass
        rest, self._received = self._received, b""
        return rest

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        self._socket.close()

    def _line(self, end: bytes) -> bytes:
        while end not in self._received:
            assert self._more(), f"the connection was closed after {self._received!r}"
        line, _, self._received = self._received.partition(end)
        return line

    def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            assert self._more(), "the answer was cut short"
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    def is_closed(self) -> bool:
        """Wait for the end; True when nothing came before it."""
        return not self._more() and self._received == b""

    def _more(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._received += data
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def head_of(method: str, path: str, *extra: str, version: str = "1.1", key: str | None = ADMIN_KEY) -> bytes:
    """Return the head of a request, with further header lines."""
    lines = [f"{method} {path} HTTP/{version}", "host: tollhouse", *extra]
    if key is not None:
        lines.insert(2, f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode()


def request(
    tenant: object,
    *extra: str,
    version: str = "1.1",
    length: bool = True,
    key: str | None = ADMIN_KEY,
    body: bytes | None = None,
    **changes: object,
) -> bytes:
    """Return head and body of a call, with further header lines."""
    encoded = json.dumps(body_for(tenant, **{"model": "m", **changes})).encode() if body is None else body
    lengths = [f"content-length: {len(encoded)}"] if length else []
    return head_of("POST", "/ai/complete", *extra, *lengths, version=version, key=key) + encoded


def chunked(raw: bytes, *trailer: bytes, size: int = 50) -> bytes:
    """Return a body in chunks, with the fields of its trailer."""
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n" + b"".join(b"%b\r\n" % line for line in trailer) + b"\r\n"
