"""A receiver of webhooks, which answers as a test tells it to and keeps what it got."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec


class Received(msgspec.Struct):
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Reply = tuple[int, dict[str, str]]


class Receiver:
    """A server on this machine.

    Attributes:
        answer: called for each request; returns the status and headers of its answer.
        received: all requests, in the order in which they came.
        page: the body of each answer.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Reply] = lambda _: (200, {})
        self.page = b""
        self.at_once = 0
        self.most_at_once = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.at_once += 1
                receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.path, headers, body)
                receiver.received.append(received)
                status, more = receiver.answer(received)
                receiver.at_once -= 1
                self.send_response(status)
                for name, value in {"content-length": str(len(receiver.page)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(receiver.page)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing of a client that left."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, count: int, timeout_s: float = 20) -> list[Received]:
        """Wait until so many requests have come, and return all."""
        until_s = time.monotonic() + timeout_s
        while len(self.received) < count:
            assert time.monotonic() < until_s, f"{len(self.received)} of {count} have come"
            time.sleep(0.005)
        return self.received
