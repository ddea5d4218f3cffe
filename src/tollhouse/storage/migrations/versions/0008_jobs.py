"""Jobs, whose turn it is, and schedules."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _optional_text(name: str) -> sa.Column[str | None]:
    return sa.Column(name, sa.Text(), nullable=True)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "ai_jobs",
        _text("job_id"),
        _text("parent_id"),
        _count("position"),
        _text("queue"),
        _text("tenant_id"),
        _text("user_id"),
        _text("feature_slug"),
        _text("model"),
        _text("service"),
        _text("key_id"),
        _text("template"),
        _text("output"),
        _count("rank"),
        _text("state"),
        _count("attempts"),
        _count("crashes"),
        _count("delays"),
        _count("generation"),
        _count("run"),
        _text("worker"),
        sa.Column("due_ms", sa.BigInteger(), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=True),
        _count("parts"),
        _count("parts_complete"),
        _count("parts_failed"),
        _text("error_code"),
        _text("error_message"),
        sa.Column("sealed_request", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_result", sa.LargeBinary(), nullable=True),
        _text("webhook_url"),
        _optional_text("claim_id"),
        _text("body_digest"),
        _text("created_at"),
        _optional_text("started_at"),
        _optional_text("finished_at"),
        _optional_text("expires_at"),
        sa.CheckConstraint(
            "state IN ('queued', 'processing', 'complete', 'failed', 'cancelled')", name="ai_jobs_state"
        ),
        sa.PrimaryKeyConstraint("job_id"),
        sa.UniqueConstraint("claim_id", name="ai_jobs_claim"),
    )
    op.create_index(
        "ai_jobs_due",
        "ai_jobs",
        ["tenant_id", "rank", "due_ms", "job_id"],
        **_where("state = 'queued' AND due_ms IS NOT NULL"),
    )
    op.create_index("ai_jobs_leases", "ai_jobs", ["lease_ms"], **_where("lease_ms IS NOT NULL"))
    op.create_index("ai_jobs_parts", "ai_jobs", ["parent_id", "position"], **_where("parent_id <> ''"))
    op.create_index("ai_jobs_ends", "ai_jobs", ["state", "job_id"], **_where("parent_id = ''"))
    op.create_index("ai_jobs_expiry", "ai_jobs", ["expires_at"], **_where("expires_at IS NOT NULL"))
    op.create_table(
        "ai_job_turns",
        _text("tenant_id"),
        _count("turn"),
        sa.Column("next_due_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ai_job_turns_waiting", "ai_job_turns", ["turn", "tenant_id"], **_where("next_due_ms IS NOT NULL"))
    op.create_table(
        "ai_job_schedules",
        _text("schedule_id"),
        _text("name"),
        _text("tenant_id"),
        _text("user_id"),
        _text("service"),
        _text("key_id"),
        _text("cron"),
        _text("timezone"),
        sa.Column("sealed_request", sa.LargeBinary(), nullable=False),
        sa.Column("next_ms", sa.BigInteger(), nullable=False),
        _text("last_job_id"),
        _text("created_at"),
        sa.PrimaryKeyConstraint("schedule_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ai_job_schedules_next", "ai_job_schedules", ["next_ms"])
    op.create_index("ai_job_schedules_tenant", "ai_job_schedules", ["tenant_id", "schedule_id"])
