import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tollhouse.cli.demo.following import Following
from tollhouse.errors import StartError

EVENT = b'id: 7\ndata: {"type": "ai.job.queued"}\n\n'


@contextlib.contextmanager
def answering(status: int, body: bytes, stays_open: threading.Event | None = None) -> Iterator[str]:
    """Serve one answer to whoever asks, and return where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            if stays_open is not None:
                stays_open.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            if stays_open is not None:
                stays_open.set()
            server.shutdown()
            serving.join()


def test_events_are_returned_as_they_come_and_heartbeats_are_none():
    stays_open = threading.Event()
    with answering(200, b"retry: 2000\nid: 6\n\n" + EVENT, stays_open) as url:
        with Following(url, "key", tenant_id=42) as events:
            assert events.next(20, lambda _: None) == {"type": "ai.job.queued"}
            heard: list[float] = []
            with pytest.raises(StartError, match=r"^no event came within 0\.3 s$"):
                events.next(0.3, heard.append)
            assert heard
        assert not events._reader.is_alive(), "leaving it does not wait for the service"


def test_a_stream_that_ends_is_told():
    with answering(200, EVENT) as url, Following(url, "key") as events:
        events.next(20, lambda _: None)
        with pytest.raises(StartError, match=r"^the stream of events has ended by itself: "):
            events.next(20, lambda _: None)


def test_a_refusal_is_told():
    with (
        answering(403, b"not yours") as url,
        pytest.raises(StartError, match=r"^events cannot be followed: not yours$"),
    ):
        Following(url, "key")
