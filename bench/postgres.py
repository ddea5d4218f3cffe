"""A PostgreSQL server under measurement: the one that the tests come with, durable as by default."""

import itertools
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.processes import children, cpu_s, ended_cpu_s
from harness.postgres import PostgresServer

_numbers = itertools.count(1)


class Postgres:
    """A running server."""

    def __init__(self, home: Path) -> None:
        self._server = PostgresServer(home / "postgres", settings={"shared_buffers": "256MB", "max_wal_size": "4GB"})

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        name = f"bench_{next(_numbers)}"
        self._server.create_database(name)
        return self._server.url(name)

    def run(self, url: str, statement: str) -> object:
        """Run a statement as the server's superuser; return the first value of its first row, if it has any."""
        rows = self._server.execute(statement, url.rpartition("/")[2], timeout_s=600)
        return rows[0][0] if rows else None

    def cpu_s(self) -> float:
        """Return the CPU seconds of all the server's processes that run now."""
        postmaster = self._server.process.pid
        return sum(cpu_s(pid) for pid in (postmaster, *children(postmaster)))

    def all_cpu_s(self) -> float:
        """Return the same with that of its processes that have ended."""
        return self.cpu_s() + ended_cpu_s(self._server.process.pid)
