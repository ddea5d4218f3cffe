"""Interpreters for Tollhouse that start without importing it: forked off a process that has.

Importing takes most of a start's time, and hundreds of tests start a service. The forked process is one of its own in
every other respect: it is killed, has its own files and environment, and ends as any interpreter does. What an
interpreter reads when it starts cannot be changed so; ``can_fork`` says when a process has to be started anew.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import msgspec

_PRELOADED = (
    "asyncpg",
    "encodings.idna",
    "h11",
    "litestar._kwargs.kwargs_model",
    "litestar.exceptions.responses",
    "litestar.middleware._internal.exceptions.middleware",
    "litestar.middleware.allowed_hosts",
    "litestar.middleware.csrf",
    "litestar.middleware.response_cache",
    "tollhouse.apps.listening",
    "tollhouse.apps.serve",
    "tollhouse.cli.books",
    "tollhouse.cli.root",
    "tollhouse.cli.session",
    "tollhouse.gate.postgres",
    "tollhouse.instances.service",
    "tollhouse.jobs.calling",
    "tollhouse.jobs.isolation",
    "tollhouse.jobs.worker",
    "tollhouse.ledger.postgres",
    "tollhouse.storage.postgres.database",
    "tollhouse.telemetry.logs",
    "tollhouse.wiring.notifiers",
    "tollhouse.wiring.service",
    "uvicorn.lifespan.off",
    "uvloop",
)
_READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "TZ", "LC_", "LANG")
_MOST_BYTES = 1 << 20


def can_fork(environ: Mapping[str, str]) -> bool:
    """Return whether a process with an environment may be forked off one that has this one."""
    names = {name for name in {*environ, *os.environ} if name.startswith(_READ_AT_START)}
    return hasattr(os, "pidfd_open") and all(environ.get(name) == os.environ.get(name) for name in names)


class Wanted(msgspec.Struct):
    """What a process is to run."""

    command: Sequence[str]
    cwd: str
    environ: Mapping[str, str]


class ForkedProcess:
    """An interpreter in a process of its own: as much of ``subprocess.Popen`` as tests need.

    Args:
        command: what follows the interpreter's name: ``-m`` and a module, or a script; and arguments.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes],
        cwd: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.stdout: IO[bytes] | None = None
        out = stdout.fileno() if stdout is not None else None
        if out is None:
            reads, out = os.pipe()
            self.stdout = os.fdopen(reads, "rb")
        try:
            self.pid = _parent().fork([str(each) for each in command], out, stderr.fileno(), cwd, environ)
        finally:
            if stdout is None:
                os.close(out)

    @property
    def returncode(self) -> int | None:
        return _parent().status_of(self.pid, 0)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        status = _parent().status_of(self.pid, timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    command: Sequence[str | Path], *, cwd: Path, environ: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself; raises TimeoutExpired when it does not."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProcess(command, stdout=out, stderr=err, cwd=cwd, environ=environ)
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(list(map(str, command)), status, *said)


class _Parent:
    """The process that has imported everything, seen from a test."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._lock = threading.RLock()
        self._statuses: dict[int, int] = {}
        self._pids: list[int] = []
        atexit.register(self.close)

    def fork(self, command: Sequence[str], out: int, err: int, cwd: Path, environ: Mapping[str, str]) -> int:
        wanted = msgspec.json.encode(Wanted(command, str(cwd), environ))
        with self._lock:
            socket.send_fds(self._ours, [wanted], [out, err])
            while not self._pids:
                self._receive(None)
            return self._pids.pop()

    def status_of(self, pid: int, timeout_s: float | None) -> int | None:
        """Return how a process ended; None if it has not after a while."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                if pid in self._statuses:
                    return self._statuses[pid]
                # In small steps, since others wait for processes of theirs.
                step_s = 0.05 if until_s is None else min(max(until_s - time.monotonic(), 0), 0.05)
                self._receive(step_s)
                if pid in self._statuses:
                    return self._statuses[pid]
            if until_s is not None and time.monotonic() >= until_s:
                return None

    def _receive(self, timeout_s: float | None) -> None:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return
        told = self._ours.recv(_MOST_BYTES)
        assert told, "the process that forks has ended"
        pid, status = json.loads(told)
        if status is None:
            self._pids.append(pid)
        else:
            self._statuses[pid] = status

    def close(self) -> None:
        self._ours.close()
        self._process.wait()


_starting = threading.Lock()


@functools.cache
def _only_parent() -> _Parent:
    return _Parent()


def _parent() -> _Parent:
    with _starting:
        return _only_parent()


def _serve(control: socket.socket) -> None:
    """Fork as asked until the test process is gone; returns in each child, as well as in the end."""
    # A script's own folder comes first, whose names are no modules of Tollhouse's.
    del sys.path[0]
    for name in _PRELOADED:
        importlib.import_module(name)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *children], [], [])
        for ended in children.keys() & set(ready):
            os.close(ended)
            pid = children.pop(ended)
            _, status = os.waitpid(pid, 0)
            control.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())
        if control.fileno() not in ready:
            continue
        wanted, (out, err), _, _ = _receive_fds(control)
        if not wanted:
            sys.exit()
        pid = os.fork()
        if not pid:
            for each in children:
                os.close(each)
            control.close()
            _become(msgspec.json.decode(wanted, type=Wanted), out, err)
        os.close(out)
        os.close(err)
        children[os.pidfd_open(pid)] = pid
        control.send(json.dumps([pid, None]).encode())


def _receive_fds(control: socket.socket) -> tuple[bytes, Sequence[int], int, object]:
    message, fds, flags, address = socket.recv_fds(control, _MOST_BYTES, 2)
    return message, fds or (-1, -1), flags, address


def _become(wanted: Wanted, out: int, err: int) -> NoReturn:
    """Be a new process of the interpreter."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(wanted.cwd)
    os.environ.clear()
    os.environ.update(wanted.environ)
    program, *arguments = wanted.command
    if program == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        sys.path.insert(0, "")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *arguments]
        sys.path.insert(0, os.path.dirname(program))  # noqa: PTH120 - as the interpreter does
        runpy.run_path(program, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
