"""Whether somebody runs the jobs that wait."""

from collections.abc import Iterator

from tollhouse.cli.books import read_books
from tollhouse.cli.doctor.finding import Finding, ok, warning
from tollhouse.config import Config
from tollhouse.errors import StartError
from tollhouse.jobs import store
from tollhouse.jobs.watch import look
from tollhouse.kit.clock import Clock


def examine_jobs(config: Config, clock: Clock) -> Iterator[Finding]:
    """Look at the queue; says nothing of a database that cannot be read, of which others tell."""
    try:
        state = read_books(config.database, lambda connection: look(connection, store.database_ms(connection, clock)))
    except StartError:
        return
    waiting = sum(count for (_, of), count in state.depths.items() if of == "queued")
    failed = sum(count for (_, of), count in state.depths.items() if of == "failed")
    overdue_s = max(state.overdue_s.values(), default=0.0)
    told = f"{waiting} wait, {state.workers} workers are alive"
    if overdue_s and not state.workers:
        how = "`tollhouse serve` runs a worker" if config.serves_jobs else "start `tollhouse worker`"
        yield warning("jobs", f"{told}; the oldest is due for {overdue_s:.0f} s", f"{how}; see docs/jobs.md")
    else:
        yield ok("jobs", told)
    if failed:
        yield warning("dead letters", f"{failed} jobs have failed", "look with `tollhouse jobs list --status failed`")
