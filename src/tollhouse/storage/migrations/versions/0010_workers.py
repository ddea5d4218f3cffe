"""Workers of jobs, each with its lease; what was interrupted beside others; totals of how jobs ended."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "ai_job_workers",
        _text("worker"),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        _text("started_at"),
        sa.PrimaryKeyConstraint("worker"),
        sqlite_with_rowid=False,
    )
    # Whoever runs jobs of the schema before holds them by leases of their own, each under its worker's name.
    op.execute(
        "INSERT INTO ai_job_workers (worker, lease_ms, started_at) SELECT worker, max(coalesce(lease_ms, 0)), "
        "min(coalesce(started_at, created_at)) FROM ai_jobs WHERE state = 'processing' AND worker <> '' GROUP BY worker"
    )
    op.create_table(
        "ai_job_totals",
        _text("queue"),
        _text("outcome"),
        _count("total"),
        sa.PrimaryKeyConstraint("queue", "outcome"),
        sqlite_with_rowid=False,
    )
    op.add_column("ai_jobs", _count("interruptions"))
    op.drop_index("ai_jobs_leases", "ai_jobs")
    op.drop_column("ai_jobs", "lease_ms")
    op.create_index("ai_jobs_held", "ai_jobs", ["worker"], **_where("state = 'processing' AND worker <> ''"))
    op.create_index("ai_jobs_waiting", "ai_jobs", ["queue", "due_ms"], **_where("state = 'queued'"))
    op.create_index("ai_job_turns_last", "ai_job_turns", ["turn"])
