"""Real ``tollhouse worker`` processes beside a service."""

import contextlib
import select
import signal
import subprocess
from collections.abc import Iterator

from harness.forking import ForkedProcess
from harness.service import Service

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0


class Worker:
    """A process that runs a service's jobs; its log goes on in one file with that of others.

    Args:
        port: where it reaches the service, where that is another than the service's own.
    """

    def __init__(self, service: Service, port: int | None = None) -> None:
        self._service = service
        self._port = port
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(self) -> "Worker":
        service = self._service
        service.environ["TOLLHOUSE_JOBS__URL"] = f"http://127.0.0.1:{self._port or service.port}"
        with (service.directory / "workers.log").open("ab") as log:
            self._process = service._spawn([*service.program, "worker", "-c", service.config_file], log)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _START_TIMEOUT_S)
        line = self._process.stdout.readline().decode() if ready else ""
        assert "runs jobs" in line, f"it did not start: {line!r}\n{self.log()[-2000:]}"
        return self

    def log(self) -> str:
        return (self._service.directory / "workers.log").read_text()

    def kill(self) -> None:
        """End the process as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def has_died(self) -> bool:
        """Whether the process has ended by itself; it may be started again then."""
        if self._process is None or self._process.poll() is None:
            return self._process is None
        self._reap()
        return True

    def terminate(self) -> int:
        """Ask the process to stop, wait until it has, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None


@contextlib.contextmanager
def workers(service: Service, how_many: int, port: int | None = None) -> Iterator[list[Worker]]:
    """Run workers; those that a test did not end are killed at its end. ``port`` is as ``Worker`` takes it."""
    started = [Worker(service, port) for _ in range(how_many)]
    try:
        for each in started:
            each.start()
        yield started
    finally:
        for each in started:
            if each.is_running:
                each.kill()
