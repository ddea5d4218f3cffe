"""The fake provider: four wire formats on one loopback port, with receipts."""

import asyncio
import gzip
import os
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import uvloop

from tollhouse.testing.behaviour import Behaviour, Exchange, Format, Receipt, Tokens
from tollhouse.testing.billing import Bill, Call, bill
from tollhouse.testing.control import control
from tollhouse.testing.formats import BASE_PATHS, BadCall, WireFormat, format_at
from tollhouse.testing.server import Connection, Delivery, HttpCall

_BACKLOG = 4096
_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_CORRELATION_HEADERS = ("x-request-id", "x-client-request-id")
# Errors that an intermediary makes up after the provider may have done the work.
_LOST_BEHIND = frozenset({502, 504})


class FakeProvider:
    """Answers like Anthropic, OpenAI, DeepSeek and Gemini, and notes what each call costs.

    ``with FakeProvider() as fake`` serves from a thread of its own; ``await start()`` and ``await stop()`` serve from
    the running loop. Telling it how to behave, and reading its receipts, works from any thread at any time.

    Args:
        receipts_path: a file to which every receipt is also appended, one JSON object a line, before the answer.
        host: the address to listen on.
        port: the port to listen on; 0 for any that is free.
    """

    def __init__(self, receipts_path: Path | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._receipts_path = receipts_path
        self._host, self._port = host, port
        # Ids are unique across fakes and restarts, so that a ledger can be matched with several receipts files.
        self._run = os.urandom(4).hex()
        self._order = 0
        self._default = Behaviour()
        self._of_model: dict[str, Behaviour] = {}
        self._script: deque[Behaviour | Exchange] = deque()
        self._receipts: list[Receipt] = []
        self._file: BinaryIO | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None

    # What it is told.

    def behave(self, behaviour: Behaviour, *, model: str | None = None) -> None:
        """Answer every call so from now on, or every call for one model."""
        if model is None:
            self._default = behaviour
        else:
            self._of_model[model] = behaviour

    def script(self, behaviours: Iterable[Behaviour]) -> None:
        """Answer the next calls so, one behaviour a call, before anything else they would be answered by."""
        self._script.extend(behaviours)

    def replay(self, exchange: dict[str, Any]) -> None:
        """Answer the next call with a recorded one's ``status``, ``content_type`` and ``response``.

        Raises:
            ValueError: the exchange lacks its status or response.
        """
        try:
            self._script.append(msgspec.convert(exchange, Exchange))
        except msgspec.ValidationError as error:
            raise ValueError(f"not a recorded exchange: {error}") from error

    def reset(self) -> None:
        """Forget all behaviours and receipts; the receipts file keeps its lines, and ids are not used again."""
        self._default = Behaviour()
        self._of_model = {}
        self._script.clear()
        self._receipts = []

    # What it tells.

    def receipts(self) -> list[Receipt]:
        """Return the receipts so far, in the order the calls arrived."""
        return list(self._receipts)

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: it does not listen.
        """
        if self._server is None:
            raise RuntimeError("the fake provider has not been started")
        return int(self._server.sockets[0].getsockname()[1])

    def base_url(self, name: Format) -> str:
        """Return the base URL to configure for a kind of provider."""
        return f"http://{self._host}:{self.port}{BASE_PATHS[name]}"

    # Its life.

    async def start(self) -> None:
        """Listen, on the running loop.

        Raises:
            OSError: the port is taken, or the receipts file cannot be opened.
        """
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._handle, self._connections), self._host, self._port, backlog=_BACKLOG
        )
        if self._receipts_path is not None:
            # Unbuffered: a line is with the operating system, and outlives this process, once it is written.
            self._file = self._receipts_path.open("ab", buffering=0)

    async def stop(self) -> None:
        """Stop listening and cut every connection; the receipts stay readable."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        started: asyncio.Queue[None] | threading.Event = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(started, failures), daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            self._thread.join()
            raise failures[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _serve(self, started: threading.Event, failures: list[BaseException]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve_until_left(started, failures))

    # What happens to a call.

    def _handle(self, http: HttpCall) -> Delivery:
        path = http.target.partition("?")[0]
        if path.startswith("/_fake/"):
            return control(self, http)
        form = format_at(path)
        if form is None or http.method != "POST":
            return Delivery(404, b'{"error":{"message":"the fake provider speaks nothing here","type":"not_found"}}')
        return self._answer(form, path, http)


