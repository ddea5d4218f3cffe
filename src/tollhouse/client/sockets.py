"""Connections of the blocking client: a bounded pool, for any number of threads."""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tollhouse.client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NotConnected,
    PoolExhausted,
    TollhouseError,
    TrustRefused,
    UnexpectedAnswer,
)
from tollhouse.client.forking import renew_after_fork
from tollhouse.client.request import Request
from tollhouse.client.settings import Settings
from tollhouse.client.tls import is_mistrust, tls_context
from tollhouse.client.wire import READ_BYTES, Head, Wire

if TYPE_CHECKING:
    from ssl import SSLContext

Left = Callable[[], float]
"""Tells for how many seconds an answer is still waited for."""


class _Connection:
    """One connection, with one exchange at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire = Wire()
        self.is_reused = False
        self.idle_since_s = 0.0
        self._socket = sock
        self._is_broken = False

    def exchange(self, request: Request, left: Left) -> Head:
        """Send a request, and return the head of its answer."""
        rest = memoryview(self.wire.request(request))
        try:
            while rest:
                self._socket.settimeout(_seconds(left))
                rest = rest[self._socket.send(rest) :]
        except TimeoutError:
            raise _late() from None
        except OSError:
            # It may have been answered all the same, by one that did not want to read it all.
            self._is_broken = True
        while (head := self.wire.head()) is None:
            self.receive(left)
        return head

    def receive(self, left: Left) -> None:
        """Take what comes next."""
        self._socket.settimeout(_seconds(left))
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            raise _late() from None
        except OSError as error:
            raise ConnectionLost(f"the connection broke before the answer was whole: {error}") from error
        self.wire.feed(data)

    def is_untouched(self) -> bool:
        """Whether nothing came while it was idle; the end, or what nobody asked for, makes it useless."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def is_reusable(self) -> bool:
        return not self._is_broken and self.wire.is_reusable()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class Connections:
    """The connections of a client. Any thread may use them; a forked child has none of its parent's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origin = settings.origin
        self._tls: SSLContext | None = tls_context(settings)
        self._idle: list[_Connection] = []
        self._is_closed = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin without connections; what the parent goes on with stays open there."""
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self._settings.max_connections)
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def open(self, request: Request, left: Left) -> "Reply":
        """Send a request, and return its answer, of which the head has come.

        Raises:
            NoAnswer: none came.
            RuntimeError: the client is closed.
        """
        slots = self._slots
        if self._is_closed:
            raise RuntimeError("this client is closed")
        if not slots.acquire(timeout=max(0.0, left())):
            raise PoolExhausted(f"all {self._settings.max_connections} connections of this client were busy until now")
        connection: _Connection | None = None
        try:
            connection = self._take() or self._connect(left)
            try:
                head = connection.exchange(request, left)
            except ConnectionLost:
                if not connection.is_reused or connection.wire.has_answered:
                    raise
                # The server had closed it while it was idle, or was about to: that is no failure of the service's.
                connection.close()
                connection = self._connect(left)
                head = connection.exchange(request, left)
        except BaseException:
            if connection is not None:
                connection.close()
            slots.release()
            raise
        return Reply(self, connection, head, slots)

    def give_back(self, connection: _Connection, slots: threading.Semaphore) -> None:
        """Take a connection back when its exchange is over, or has to be."""
        is_kept = False
        if connection.is_reusable():
            connection.is_reused = True
            connection.idle_since_s = time.monotonic()
            with self._lock:
                is_kept = slots is self._slots and not self._is_closed
                if is_kept:
                    self._idle.append(connection)
        if not is_kept:
            connection.close()
        slots.release()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when its exchange is over."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> _Connection | None:
        """Return the connection that was used last, so that those beyond the usual load grow old and are closed."""
        oldest_s = time.monotonic() - self._settings.idle_timeout_s
        while True:
            with self._lock:
                too_old = [each for each in self._idle if each.idle_since_s < oldest_s]
                self._idle = self._idle[len(too_old) :]
                connection = self._idle.pop() if self._idle else None
            for each in too_old:
                each.close()
            if connection is None or connection.is_untouched():
                return connection
            connection.close()

    def _connect(self, left: Left) -> _Connection:
        origin = self._origin
        timeout_s = min(self._settings.connect_timeout_s, _seconds(left))
        sock = None
        try:
            sock = socket.create_connection((origin.host, origin.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=origin.host)
        except OSError as error:
            if sock is not None:
                sock.close()
            if is_mistrust(error):
                raise TrustRefused(f"{origin.authority} is not trusted: {error}") from error
            raise NotConnected(f"{origin.authority} cannot be reached: {error}") from error
        return _Connection(sock)


class Reply:
    """An answer that is being received; it has to be closed."""

    def __init__(self, owner: Connections, connection: _Connection, head: Head, slots: threading.Semaphore) -> None:
        self.head = head
        self._owner = owner
        self._connection = connection
        self._slots = slots
        self._is_open = True

    def read(self, left: Left, max_bytes: int) -> bytes:
        """Return the whole body; raises NoAnswer."""
        parts, size = [], 0
        while part := self.part(left):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise UnexpectedAnswer(f"the answer is longer than max_answer_bytes, {max_bytes}")
        return b"".join(parts)

    def part(self, left: Left) -> bytes:
        """Return the next piece of the body, and nothing at its end; raises NoAnswer."""
        while (data := self._connection.wire.body()) is None:
            self._connection.receive(left)
        return data

    def close(self) -> None:
        """Let go of the connection. It is used again if the answer has come whole."""
        if self._is_open:
            self._is_open = False
            self._owner.give_back(self._connection, self._slots)


def _seconds(left: Left) -> float:
    left_s = left()
    if left_s <= 0:
        raise _late()
    return left_s


def _late() -> TollhouseError:
    return DeadlineExceeded("no whole answer came in time; the call may have been carried out")
