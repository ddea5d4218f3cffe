"""``python -m bench.telling PORT``: a bare server that writes what is posted to it to all who follow."""

import asyncio
import sys

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DONE = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self, followers: "set[_Connection]") -> None:
        self._followers = followers
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason
        self._followers.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        if not end or len(body) < length:
            return
        self._received = b""
        if not length:
            self._followers.add(self)
            self.transport.write(_HEAD)
            return
        chunk = b"%x\r\n%b\r\n" % (len(body), body)
        for follower in self._followers:
            follower.transport.write(chunk)
        self.transport.write(_DONE)


async def _serve(port: int) -> None:
    followers: set[_Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(followers), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
