"""One process owns an embedded database: the lock that makes it so, and how others find the owner."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tollhouse.errors import StartError


class Owner(msgspec.Struct, frozen=True):
    """The process that holds a database, as it describes itself in the lock file.

    Attributes:
        url: where it serves, or "" when it is a command that is about to end.
        commands_url: where it serves commands of this machine, if that is elsewhere.
        operator_token: a super-admin key that ends with the process; the file is readable by its user alone.
    """

    pid: int
    url: str = ""
    operator_token: str = ""
    commands_url: str = ""


class DatabaseInUse(StartError):
    """Another process owns the database; ``owner`` is None when it has not said who it is."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        who = f"process {owner.pid}" if owner else "another process"
        where = f", serving at {owner.url}" if owner and owner.url else ""
        super().__init__(f"{path}: the database is in use by {who}{where}; it can have one owner at a time")
        self.owner = owner


class DatabaseLock:
    """An advisory lock beside the database file, let go by the kernel when its process dies.

    SQLite before 3.51.3 can damage a write-ahead log that two connections write, so a second writer is kept out.
    """

    def __init__(self, database_path: Path) -> None:
        self._database_path = database_path
        self._path = database_path.with_name(database_path.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock; raises DatabaseInUse when another process holds it, StartError when it cannot be made."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"{self._path}: cannot be created: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _read_owner(fd)
            os.close(fd)
            raise DatabaseInUse(self._database_path, owner) from error
        self._fd = fd
        self.describe(Owner(pid=os.getpid()))

    def describe(self, owner: Owner) -> None:
        """Write who owns the database and where it can be reached."""
        assert self._fd is not None, "describe() needs the lock"
        text = msgspec.json.encode(owner)
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        """Let the lock go; the file stays, since removing it would let two processes lock two files."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read_owner(fd: int) -> Owner | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Owner)
    except (msgspec.DecodeError, OSError):
        return None
