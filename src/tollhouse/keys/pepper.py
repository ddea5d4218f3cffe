"""The pepper that every stored key digest is made with, where the configuration names none."""

import os
import secrets
from pathlib import Path
from typing import Protocol

from tollhouse.errors import StartError
from tollhouse.keys import store
from tollhouse.storage.database import Database

_PEPPER_BYTES = 32


class Pepper(Protocol):
    """Where a pepper that nobody configured is kept."""

    where: str

    async def read(self) -> bytes | None:
        """Return the kept pepper, or None where there is none yet; raises StartError when it cannot be read."""

    async def create(self) -> bytes:
        """Make a pepper and keep it; durable before any key is made with it. Raises StartError."""


class FilePepper:
    """In a file, readable by this user alone."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    async def read(self) -> bytes | None:
        return read_pepper(self._path)

    async def create(self) -> bytes:
        return create_pepper(self._path)


class StoredPepper:
    """In the database that several instances share. Keys have 256 random bits: none can be guessed from digests."""

    where = "the database's ai_settings"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> bytes | None:
        kept = await self._database.read(store.stored_pepper)
        return None if kept is None else bytes.fromhex(kept)

    async def create(self) -> bytes:
        made = secrets.token_bytes(_PEPPER_BYTES).hex()
        # Of instances that start together, one makes it.
        return bytes.fromhex(await self._database.write(lambda connection: store.store_pepper(connection, made)))


def pepper_path(database_path: Path) -> Path:
    """Return where an embedded database's own pepper is kept: beside it, so that the database alone is no use."""
    return database_path.with_name(database_path.name + ".pepper")


def read_pepper(path: Path) -> bytes | None:
    """Return a kept pepper, or None where there is none yet; raises StartError when it cannot be read."""
    try:
        text = path.read_text("ascii").strip()
        pepper = bytes.fromhex(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StartError(
            f"{path}: cannot be read as a pepper: {error}; expected {_PEPPER_BYTES} bytes in hex"
        ) from error
    if len(pepper) != _PEPPER_BYTES:
        raise StartError(f"{path}: expected {_PEPPER_BYTES} bytes in hex, found {len(pepper)}")
    return pepper


def create_pepper(path: Path) -> bytes:
    """Make a pepper and keep it, readable by this user alone; durable before any key is made with it."""
    pepper = secrets.token_bytes(_PEPPER_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{path}: the pepper cannot be written: {error.strerror}") from error
    with os.fdopen(fd, "w") as file:
        file.write(pepper.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    # A new file's name is durable once its folder is.
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return pepper
