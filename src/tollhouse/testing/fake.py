"""The fake provider: all wire formats on one loopback port, with receipts."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import uvloop

from tollhouse.testing.answering import Planned, key_of, plan, replay
from tollhouse.testing.behaviour import Behaviour, Exchange, Format, Receipt
from tollhouse.testing.billing import Call
from tollhouse.testing.control import PREFIX, control
from tollhouse.testing.formats.base import BadCall, WireFormat
from tollhouse.testing.formats.registry import BASE_PATHS, format_at
from tollhouse.testing.server import Connection, Delivery, HttpCall, Stream

_BACKLOG = 4096
_CORRELATION_HEADERS = ("x-request-id", "x-client-request-id")


class FakeProvider:
    """Answers like Anthropic, OpenAI, DeepSeek and Gemini, whole or in events, and notes what each call costs.

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
        # Receipts as they were when their calls arrived, and the streams that tell how far they have come since.
        self._receipts: list[tuple[Receipt, Stream | None]] = []
        self._file: BinaryIO | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None
        self._leave: Callable[[], object] | None = None

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
        self._script.append(msgspec.convert(exchange, Exchange))

    def reset(self) -> None:
        """Forget all behaviours and receipts; the receipts file keeps its lines, and ids are not used again."""
        self._default = Behaviour()
        self._of_model = {}
        self._script.clear()
        self._receipts = []

    # What it tells.

    def receipts(self) -> list[Receipt]:
        """Return the receipts so far, in the order the calls arrived, each with how far its stream has come by now."""
        return [receipt if stream is None else _by_now(receipt, stream) for receipt, stream in list(self._receipts)]

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
        """Return the base URL to configure for a kind of provider; raises RuntimeError if it does not listen."""
        return f"http://{self._host}:{self.port}{BASE_PATHS[name]}"

    # Its life.

    async def start(self) -> None:
        """Listen, on the running loop.

        Raises:
            OSError: the port is taken, or the receipts file cannot be opened.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._connections), self._host, self._port, backlog=_BACKLOG
        )
        if self._receipts_path is not None:
            try:
                # Unbuffered: a line is with the operating system, and outlives this process, once it is written.
                self._file = self._receipts_path.open("ab", buffering=0)
            except OSError:
                await self.stop()
                raise

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
        started: Future[Callable[[], object]] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        self._leave = started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._leave is not None, "__enter__() has set it"
        assert self._thread is not None, "__enter__() has set it"
        self._leave()
        self._thread.join()

    def _serve(self, started: Future[Callable[[], object]]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve_until_left(started))

    async def _serve_until_left(self, started: Future[Callable[[], object]]) -> None:
        left = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            await self.start()
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(lambda: loop.call_soon_threadsafe(left.set))
        await left.wait()
        await self.stop()

    # What happens to a call.

    def _handle(self, http: HttpCall) -> Delivery:
        path = http.target.partition("?")[0]
        if path.startswith(PREFIX):
            return control(self, http)
        form = format_at(path)
        if form is None or http.method != "POST":
            return Delivery(404, b'{"error":{"message":"nothing is spoken here","type":"not_found_error"}}')
        try:
            call = form.read(http.target, http.body)
        except (BadCall, RecursionError) as error:
            # Whatever it was told, it refuses what the vendor would.
            refused = Behaviour(status=400, reason=str(error))
            return self._deliver(form, path, http, Call(model="", prompt_bytes=0), refused)
        told = self._script.popleft() if self._script else self._of_model.get(call.model, self._default)
        return self._deliver(form, path, http, call, told)

    def _deliver(self, form: WireFormat, path: str, http: HttpCall, call: Call, told: Behaviour | Exchange) -> Delivery:
        self._order += 1
        answer_id = f"fake-{self._run}-{self._order}"
        is_replayed = isinstance(told, Exchange)
        planned = replay(told) if isinstance(told, Exchange) else plan(form, call, answer_id, told, http.headers)
        self._note(self._receipt(form, path, http, call, planned, answer_id, is_replayed=is_replayed), planned)
        return planned.delivery

    def _receipt(
        self,
        form: WireFormat,
        path: str,
        http: HttpCall,
        call: Call,
        planned: Planned,
        answer_id: str,
        *,
        is_replayed: bool,
    ) -> Receipt:
        delivery = planned.delivery
        return Receipt(
            id=answer_id,
            order=self._order,
            format=form.name,
            model=call.model,
            path=path,
            status=delivery.status if delivery.fate == "whole" else None,
            billed=planned.billed,
            **msgspec.structs.asdict(planned.tokens),
            authenticated=key_of(http.headers) != "",
            correlation_id=next((http.headers[n] for n in _CORRELATION_HEADERS if n in http.headers), None),
            replayed=is_replayed,
            raw_request=_one_line(http.body),
            streamed_events=None if delivery.stream is None else 0,
        )

    def _note(self, receipt: Receipt, planned: Planned) -> None:
        self._receipts.append((receipt, planned.delivery.stream))
        if self._file is not None:
            self._file.write(msgspec.json.encode(receipt) + b"\n")


def _by_now(receipt: Receipt, stream: Stream) -> Receipt:
    return msgspec.structs.replace(receipt, streamed_events=stream.sent, client_left_after=stream.left_after)


def _one_line(body: bytes) -> msgspec.Raw:
    """Return a JSON body without line breaks, or ``null`` for what is no JSON."""
    try:
        # Formatting copies the text without building its objects, and finds what is no JSON.
        return msgspec.Raw(msgspec.json.format(body, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(b"null")
