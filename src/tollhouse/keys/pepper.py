"""The pepper that every stored key digest is made with, where the configuration names none."""

import os
import secrets
from pathlib import Path

from tollhouse.errors import StartError

_PEPPER_BYTES = 32


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
