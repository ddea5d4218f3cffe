"""The port every engine implements: reads, rare writes, and the group commit of the hot path."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from tollhouse.errors import CallTimeout

T = TypeVar("T")


class Transaction(Protocol):
    """The transaction that a batch of operations runs in."""

    connection: Any
    """The raw driver connection, for the set-based statements of the hot path."""

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Undo a change made in memory, should the transaction not commit."""


def is_given_up(future: "asyncio.Future[Any]") -> bool:
    """Whether the submitter of an operation would not wait for its outcome any longer, by the deadline of its call."""
    return future.done() and not future.cancelled() and isinstance(future.exception(), CallTimeout)


BatchHandler = Callable[[Transaction, Sequence[Any]], Sequence[Any]]
"""Carries out a batch of operations of one type and returns an outcome for each, in order.

An outcome that is an exception is raised from that operation's ``submit``; the others stand. An exception
raised by the handler itself rolls the whole batch back."""


class Database(Protocol):
    """Durable storage. Whatever ``write`` or ``submit`` returned has been committed and fsync'd."""

    @property
    def waiting(self) -> int:
        """How many operations wait for a transaction to take them."""

    def submit(self, operation: object) -> "asyncio.Future[Any]":
        """Carry out an operation together with all that wait now, in one transaction with one fsync.

        To be called in the event loop. A future and no coroutine, since every call waits for two of them: it is carried
        out even if nobody waits, and a refusal may be raised at once.

        Who cannot wait any longer fails the future with CallTimeout: the operation goes on, and an outcome that must
        not be lost goes to whoever takes late ones.

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
