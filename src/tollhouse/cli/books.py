"""Reading the books of whichever engine is configured, beside the processes that serve from them."""

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from tollhouse.config import Database
from tollhouse.errors import StartError

T = TypeVar("T")


def read_books(database: Database, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` on one consistent snapshot of a database of this version's schema; it cannot change anything.

    Raises:
        StartError: there is no such database, it cannot be read, or it is of another version.
    """
    if database.is_embedded:
        from tollhouse.cli.database_file import read_checked

        return read_checked(database.sqlite_path, work)
    from tollhouse.storage.postgres.control import check_schema, open_engine, read_snapshot, shown

    engine = open_engine(database.url)
    try:
        check_schema(engine, database.url)
        return read_snapshot(engine, work)
    except sa.exc.DBAPIError as error:
        raise StartError(f"{shown(database.url)}: cannot be read: {error.orig}") from error
    finally:
        engine.dispose()
