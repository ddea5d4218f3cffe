"""The statements of workers and their leases. A worker that says nothing for as long as its lease lasts is dead.

A lease is a worker's, and not a job's: what it held at its end is known all at once.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from tollhouse.jobs.lookup import COLUMNS, job_of
from tollhouse.jobs.model import Job
from tollhouse.storage.job_schema import ai_job_workers, ai_jobs
from tollhouse.storage.statements import Prepared

_JOB = ai_jobs.c
_WORKER = ai_job_workers.c
# Spelt out as in their index.
_IS_HELD = sa.and_(_JOB.state == sa.literal_column("'processing'"), _JOB.worker != sa.literal_column("''"))
_AT_ONCE = 20

_PROLONG = Prepared(
    sa.text(
        "INSERT INTO ai_job_workers (worker, lease_ms, started_at) VALUES (:worker, :lease_ms, :now) "
        "ON CONFLICT (worker) DO UPDATE SET lease_ms = excluded.lease_ms"
    )
)
_RUNS = Prepared(sa.select(_JOB.job_id, _JOB.run).where(_IS_HELD, _JOB.worker == sa.bindparam("by")))
_HELD = Prepared(
    sa.select(*COLUMNS).where(_IS_HELD, _JOB.worker == sa.bindparam("by")).order_by(_JOB.tenant_id, _JOB.job_id)
)
_LEAVE = Prepared(sa.delete(ai_job_workers).where(_WORKER.worker == sa.bindparam("by")))


def prolong(connection: sa.Connection, worker: str, lease_ms: int, now: str) -> None:
    """Give a worker its lease, or prolong it; its row is locked from here on, which keeps it from being taken for dead.

    Args:
        lease_ms: until when it is taken to be alive, whatever happens.
    """
    _PROLONG.on(connection, worker=worker, lease_ms=lease_ms, now=now)


def runs_of(connection: sa.Connection, worker: str) -> Mapping[str, int]:
    """Return what a worker holds: the runs of jobs, by their ids."""
    return {row.job_id: row.run for row in _RUNS.on(connection, by=worker)}


def held_by(connection: sa.Connection, worker: str) -> Sequence[Job]:
    """Return the jobs that a worker holds, in the order in which tenants' rows are locked."""
    return [job_of(row) for row in _HELD.on(connection, by=worker)]


def dead(connection: sa.Connection, until_ms: int) -> Sequence[str]:
    """Return workers whose leases ended before a moment; their rows are locked, and those that are already left out."""
    wanted = (
        sa.select(_WORKER.worker)
        .where(_WORKER.lease_ms < until_ms)
        .order_by(_WORKER.worker)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return connection.scalars(wanted).all()


def leave(connection: sa.Connection, worker: str) -> None:
    """Forget a worker, which holds nothing any more."""
    _LEAVE.on(connection, by=worker)
