"""A way to a server that a test can hold up, or cut."""

import contextlib
import socket
import threading
from functools import partial
from typing import Self


class Cable:
    """Passes connections on to a port of this machine.

    Attributes:
        port: where it accepts them.
        carried: how many there have been.
    """

    def __init__(self, to_port: int) -> None:
        self.carried = 0
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._passes = threading.Event()
        self._passes.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes whoever accepts, which closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self.cut()

    def hold(self) -> None:
        """Let nothing pass, without a word to either end."""
        self._passes.clear()

    def release(self) -> None:
        """Let all pass that was held."""
        self._passes.set()

    def cut(self) -> None:
        """End every connection that there is; new ones are carried."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                self.carried += 1
                there = socket.create_connection(("127.0.0.1", self._to_port))
                with self._lock:
                    self._ends |= {here, there}
                done = threading.Barrier(2, action=partial(_close, here, there))
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(source, target, done), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, done: threading.Barrier) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        done.wait()
        with self._lock:
            self._ends.discard(source)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        end.close()
