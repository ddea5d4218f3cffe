"""A database on its own, and operations for it that do nothing but what a test asks."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tollhouse.storage.database import Transaction
from tollhouse.storage.sqlite import SqliteDatabase


class Put(msgspec.Struct, frozen=True):
    """The operation that writes a row of ``ai_settings``; a name that is taken breaks the batch.

    Attributes:
        refusal: an outcome for this operation alone, instead of the row.
    """

    name: str
    value: str = ""
    refusal: Exception | None = None


class Puts:
    """Handles ``Put``, and notes the batches it was given and what was undone."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.undone: list[str] = []

    def __call__(self, transaction: Transaction, puts: Sequence[Put]) -> list[Any]:
        self.batches.append([put.name for put in puts])
        return [self._put(transaction, put) for put in puts]

    def _put(self, transaction: Transaction, put: Put) -> Any:
        transaction.on_rollback(lambda: self.undone.append(put.name))
        if put.refusal is not None:
            return put.refusal
        transaction.connection.execute("INSERT INTO ai_settings VALUES (?, ?)", (put.name, put.value))
        return f"put {put.name}"


@asynccontextmanager
async def open_database(
    path: Path, handlers: dict[type[object], Callable[[Transaction, Sequence[Any]], Sequence[Any]]] | None = None
) -> AsyncIterator[SqliteDatabase]:
    """Open a database, with handlers in the order they are given."""
    database = SqliteDatabase(path)
    for operation, handler in (handlers or {}).items():
        database.handle(operation, handler)
    try:
        database.open()
        yield database
    finally:
        await database.close()


def settings(connection: Any) -> dict[str, str]:
    """Return the rows of ``ai_settings``."""
    return dict(connection.exec_driver_sql("SELECT name, value FROM ai_settings").all())
