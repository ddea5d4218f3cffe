"""Which engine a test runs on, and where its databases are: a folder's files, or databases of the test's server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness.postgres import new_database, shared_server
from tollhouse.storage.postgres.control import migrate_database

Engine = Literal["sqlite", "postgresql"]
ENGINES: tuple[Engine, ...] = ("sqlite", "postgresql")

_current: Engine = "sqlite"
_urls: dict[Path, str] = {}


def current() -> Engine:
    """Return the engine that the running test is for."""
    return _current


@contextlib.contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Run tests on an engine."""
    global _current
    before, _current = _current, engine
    try:
        yield
    finally:
        _current = before


def database_url(path: Path) -> str:
    """Return the URL of a test's database, which stands for the file at a path on either engine."""
    if _current == "sqlite":
        return f"sqlite:///{path}"
    if path not in _urls:
        _urls[path] = new_database(migrated)
    return _urls[path]


def drop_databases(folder: Path | None = None) -> None:
    """Drop what tests have made on the server: all of it, or what stands for files in a folder."""
    for path, url in list(_urls.items()):
        if folder is None or folder in path.parents:
            shared_server().drop_database(url.rpartition("/")[2])
            del _urls[path]


def migrated(url: str) -> None:
    """Migrate a new database."""
    migrate_database(url)
