"""Reading a database file without owning it, beside whichever process does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from tollhouse.errors import StartError
from tollhouse.storage.migrate import schema_revision
from tollhouse.storage.schema import REVISION
from tollhouse.storage.sqlite import open_read_only, read_snapshot

T = TypeVar("T")


def read_file(path: Path, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` on one consistent snapshot of a database file; it cannot change anything.

    Raises:
        StartError: there is no such file, or it cannot be read as Tollhouse's database.
    """
    if not path.exists():
        raise StartError(f"{path}: no such file: expected a database that `tollhouse serve` or `migrate` has made")
    with _engine(path) as engine:
        try:
            return read_snapshot(engine, work)
        except sa.exc.DBAPIError as error:
            raise StartError(f"{path}: cannot be read as a database: {error.orig}") from error
        except StartError as error:
            raise StartError(f"{path}: {error}") from error


def read_checked(path: Path, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` as ``read_file`` does, on a database of this version's schema; raises StartError for another."""

    def checked(connection: sa.Connection) -> T:
        revision = schema_revision(connection)
        if revision != REVISION:
            found = "is empty" if revision is None else f"is at schema {revision}"
            raise StartError(f"{found}; expected schema {REVISION}, which `tollhouse migrate` brings an older one to")
        return work(connection)

    return read_file(path, checked)


def revision_of(path: Path) -> str | None:
    """Return the schema revision of a database file; None when it is missing or empty. Raises StartError."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    return read_file(path, schema_revision)


@contextmanager
def _engine(path: Path) -> Iterator[sa.Engine]:
    engine = open_read_only(path)
    try:
        yield engine
    finally:
        engine.dispose()
