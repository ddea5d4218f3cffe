"""Following a service's events from the terminal, as any program does: a stream of server-sent events."""

import contextlib
import http.client
import queue
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import msgspec

from tollhouse.errors import StartError
from tollhouse.kit.clock import SystemClock
from tollhouse.providers.sse import EventParser, EventTooLong

_TICK_S = 0.1
_SILENCE_TIMEOUT_S = 60.0
_MOST_EVENT_BYTES = 1 << 20


class Following:
    """The events that a key may follow, from now on.

    Args:
        url: where the service is.
        parameters: whose events; see ``GET /events``.
    """

    def __init__(self, url: str, key: str, **parameters: object) -> None:
        server = urlsplit(url)
        # The service is silent for no longer than its heartbeat lasts.
        self._connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=_SILENCE_TIMEOUT_S)
        self._connection.connect()
        self._socket = self._connection.sock
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        self._connection.request("GET", f"/events?{urlencode(parameters)}", headers=headers)
        self._answer = self._connection.getresponse()
        if self._answer.status != 200:
            raise StartError(f"events cannot be followed: {self._answer.read().decode(errors='replace')}")
        self._found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Read by a thread, so that whoever waits can show meanwhile that it goes on.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The reader waits within the answer, which cannot be closed before that is over.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._answer.close()
        self._connection.close()

    def next(self, timeout_s: float, tick: Callable[[float], None]) -> Any:
        """Return the next event, as CloudEvents.

        Args:
            tick: called again and again meanwhile, with the seconds waited so far.

        Raises:
            StartError: none came in time, or the stream has ended.
        """
        clock = SystemClock()
        started_s = clock.monotonic_s()
        while (waited_s := clock.monotonic_s() - started_s) < timeout_s:
            tick(waited_s)
            with contextlib.suppress(queue.Empty):
                event = self._found.get(timeout=_TICK_S)
                if event is None or isinstance(event, Exception):
                    raise StartError(f"the stream of events has ended by itself: {event or 'the service closed it'}")
                return event
        raise StartError(f"no event came within {timeout_s:g} s")

    def _read(self) -> None:
        parser = EventParser(_MOST_EVENT_BYTES)
        try:
            while data := self._answer.read1():
                for event in parser.feed(data):
                    if event.data:
                        self._found.put(msgspec.json.decode(event.data))
        except (OSError, http.client.HTTPException, EventTooLong, msgspec.DecodeError) as error:
            self._found.put(error)
        else:
            self._found.put(None)
