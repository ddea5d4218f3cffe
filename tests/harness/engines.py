"""Which engine a test runs on, and where its databases are: a folder's files, or databases of the test's server."""

import contextlib
import sqlite3
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


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that nobody has open, with all that is in it."""
    if _current == "sqlite":
        target.write_bytes(source.read_bytes())
    else:
        _urls[target] = new_database(template=database_name(_urls[source]))


def run_sql(path: Path, *statements: str) -> None:
    """Change a database behind the service's back, as somebody could to whom nothing is forbidden."""
    if _current == "sqlite":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(";".join(statements))
        return
    for statement in statements:
        shared_server().execute(statement, database_name(_urls[path]))


def stored_bytes(path: Path) -> bytes:
    """Return all that a database keeps on the disk, also of rows that are gone."""
    if _current == "sqlite":
        return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))
    server, name = shared_server(), database_name(_urls[path])
    server.execute("CHECKPOINT")
    files = server.execute(
        "SELECT pg_relation_filepath(oid) AS file FROM pg_class WHERE relfilenode <> 0 AND oid >= 16384", name
    )
    return b"".join((server.data / row["file"]).read_bytes() for row in files)


def database_name(url: str) -> str:
    """Return the name of a database of the test's server."""
    return url.rpartition("/")[2]


def drop_databases(folder: Path | None = None) -> None:
    """Drop what tests have made on the server: all of it, or what stands for files in a folder."""
    for path, url in list(_urls.items()):
        if folder is None or folder in path.parents:
            shared_server().drop_database(database_name(url))
            del _urls[path]


def migrated(url: str) -> None:
    """Migrate a new database."""
    migrate_database(url)
