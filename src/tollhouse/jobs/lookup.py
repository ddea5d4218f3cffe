"""What is read of jobs. The statements run on every engine."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tollhouse.jobs.model import Job
from tollhouse.storage.job_schema import ai_jobs

_JOB = ai_jobs.c
_FIELDS = Job.__struct_fields__
COLUMNS = [_JOB[name] for name in _FIELDS]
"""Those of a job, without what was asked and answered."""


def find(connection: sa.Connection, job_id: str) -> Job | None:
    """Return a job, or a part of one."""
    return _one(connection, _JOB.job_id == job_id)


def find_claim(connection: sa.Connection, claim_id: str) -> Job | None:
    """Return the job that was asked for under an Idempotency-Key."""
    return _one(connection, _JOB.claim_id == claim_id)


def _one(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Job | None:
    row = connection.execute(sa.select(*COLUMNS).where(condition)).one_or_none()
    return None if row is None else job_of(row)


def job_of(row: Any) -> Job:
    """Return the job that a row of ``COLUMNS`` is, whatever else it ends with."""
    return Job(**dict(zip(_FIELDS, row, strict=False)))


def expired(connection: sa.Connection, now: str, most: int) -> Sequence[str]:
    """Return the ids of jobs whose time is over, at least one if there are any.

    Args:
        most: how many they are, their parts counted, unless a single one has more.
    """
    chosen: list[str] = []
    for row in connection.execute(sa.select(_JOB.job_id, _JOB.parts).where(_JOB.expires_at < now).limit(most)):
        most -= 1 + row.parts
        if chosen and most < 0:
            break
        chosen.append(row.job_id)
    return chosen


def sealed(connection: sa.Connection, job_id: str) -> tuple[bytes | None, bytes | None]:
    """Return a job's sealed request and result."""
    row = connection.execute(sa.select(_JOB.sealed_request, _JOB.sealed_result).where(_JOB.job_id == job_id)).one()
    return row.sealed_request, row.sealed_result


def parts_of(connection: sa.Connection, job_id: str) -> Sequence[tuple[Job, bytes | None]]:
    """Return a job's parts in their order, each with its sealed result."""
    wanted = (
        sa.select(*COLUMNS, _JOB.sealed_result)
        .where(_JOB.parent_id == job_id, _JOB.parent_id != sa.literal_column("''"))
        .order_by(_JOB.position)
    )
    return [(job_of(row), row.sealed_result) for row in connection.execute(wanted)]


def page(
    connection: sa.Connection, *, state: str | None, tenant_id: str | None, before_id: str | None, most: int
) -> Sequence[Job]:
    """Return jobs, the newest first, without their parts."""
    conditions = [_JOB.parent_id == sa.literal_column("''")]
    if state is not None:
        conditions.append(_JOB.state == state)
    if tenant_id is not None:
        conditions.append(_JOB.tenant_id == tenant_id)
    if before_id is not None:
        conditions.append(_JOB.job_id < before_id)
    wanted = sa.select(*COLUMNS).where(*conditions).order_by(_JOB.job_id.desc()).limit(most)
    return [job_of(row) for row in connection.execute(wanted)]
