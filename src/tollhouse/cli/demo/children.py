"""The demo's child processes: the model and the service."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tollhouse.errors import StartError
from tollhouse.kit.clock import SystemClock

_TICK_S = 0.1
_STOP_TIMEOUT_S = 15.0
_LOG_LINES_SHOWN = 3


class Child:
    """A Python module run as a process, which says on its first line that it is ready.

    Args:
        name: what it is, for messages.
        arguments: the module, and what it is told.
        log: the file that its standard error goes to; it runs in that file's directory.
    """

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as stderr:
            # In a session of its own, so that Ctrl-C reaches the demo alone, which then stops its children in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-P", "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environ),
                cwd=log.parent,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, timeout_s: float, tick: Callable[[float], None]) -> str:
        """Return its first line.

        Args:
            tick: called again and again meanwhile, with the seconds waited so far.

        Raises:
            StartError: it ended before, or took too long.
        """
        assert self._process.stdout is not None, "it is a pipe"
        clock = SystemClock()
        started_s = clock.monotonic_s()
        while not select.select([self._process.stdout], [], [], _TICK_S)[0]:
            waited_s = clock.monotonic_s() - started_s
            if waited_s > timeout_s:
                raise StartError(f"{self.name} was not ready within {timeout_s:g} s{self.last_words()}")
            tick(waited_s)
        line = self._process.stdout.readline().decode(errors="replace").strip()
        if not line:
            raise StartError(f"{self.name} ended with exit code {self._process.wait()}{self.last_words()}")
        return line

    def stop(self) -> None:
        """End it and wait until it has ended; one that does not heed SIGTERM is killed."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def last_words(self) -> str:
        """Return the end of its log, as the end of a sentence."""
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
        return ": " + " / ".join(lines) if lines else ""


def wait_while_running(children: Sequence[Child]) -> Child:
    """Wait until one of the children has ended by itself, and return that one."""
    while True:
        for child in children:
            if not child.is_running:
                return child
        time.sleep(_TICK_S)


def own_environment() -> dict[str, str]:
    """Return the environment without what would lead the demo elsewhere: overrides of keys, and proxies."""
    kept = {name: value for name, value in os.environ.items() if not (name.startswith("TOLLHOUSE_") and "__" in name)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
