"""The port every engine implements: reads, rare writes, and the group commit of the hot path."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

T = TypeVar("T")


class Transaction(Protocol):
    """The transaction that a batch of operations runs in."""

    connection: Any
    """The raw driver connection, for the set-based statements of the hot path."""

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Undo a change made in memory, should the transaction not commit."""


BatchHandler = Callable[[Transaction, Sequence[Any]], Sequence[Any]]
"""Carries out a batch of operations of one type and returns an outcome for each, in order.

An outcome that is an exception is raised from that operation's ``submit``; the others stand. An exception
raised by the handler itself rolls the whole batch back."""


class Database(Protocol):
    """Durable storage. Whatever ``write`` or ``submit`` returned has been committed and fsync'd."""

    @property
    def waiting(self) -> int:
        """How many operations wait for a transaction to take them."""

    def submit(self, operation: object) -> Awaitable[Any]:
        """Carry out an operation together with all that wait now, in one transaction with one fsync.

        To be called in the event loop. A future and no coroutine, since every call waits for two of them: it is carried
        out even if nobody waits, and a refusal may be raised at once.

        Raises:
            Unavailable: the database cannot be written; nothing was changed.
            Undecided: the database did not answer in time; the operation goes on.
            TollhouseError: the outcome that the handler returned for this operation.
        """

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in a write transaction; an exception it raises undoes its changes and is passed on."""

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` on one consistent snapshot; it cannot change anything.

        Raises:
            Unavailable: the database cannot be read.
        """
