"""The tables of jobs, which ``schema.py`` has with all others."""

from typing import Any

import sqlalchemy as sa

from tollhouse.storage.columns import count, metadata, optional_text, text


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


# What is to be run later: a call, or a job of many parts, which are rows of their own with its id as parent_id. What is
# asked and what came of it is sealed (jobs/sealing.py).
ai_jobs = sa.Table(
    "ai_jobs",
    metadata,
    text("job_id", key=True),
    text("parent_id"),
    count("position"),
    text("queue"),
    text("tenant_id"),
    text("user_id"),
    text("feature_slug"),
    text("model"),
    text("service"),
    text("key_id"),
    text("template"),
    text("output"),
    # The least of a tenant's jobs comes first: its priority, negated.
    count("rank"),
    text("state"),
    count("attempts"),
    # Workers that ended while they ran it alone.
    count("crashes"),
    # How often in a row it was put off without having used up a try.
    count("delays"),
    # How often its call was replaced by a new one, which may be paid again.
    count("generation"),
    # Raised by each claim: who writes for another run writes nothing.
    count("run"),
    text("worker"),
    # Milliseconds of the database's clock since the Unix epoch. NULL: nothing of it is to be claimed.
    sa.Column("due_ms", sa.BigInteger, nullable=True),
    count("parts"),
    count("parts_complete"),
    count("parts_failed"),
    text("error_code"),
    text("error_message"),
    sa.Column("sealed_request", sa.LargeBinary, nullable=True),
    sa.Column("sealed_result", sa.LargeBinary, nullable=True),
    text("webhook_url"),
    # Whose Idempotency-Key it was asked for under, and a keyed digest of what was asked.
    optional_text("claim_id"),
    text("body_digest"),
    text("created_at"),
    optional_text("started_at"),
    optional_text("finished_at"),
    optional_text("expires_at"),
    # Workers that ended while they ran it beside others: whose doing that was is not known.
    count("interruptions"),
    sa.CheckConstraint("state IN ('queued', 'processing', 'complete', 'failed', 'cancelled')", name="ai_jobs_state"),
    sa.UniqueConstraint("claim_id", name="ai_jobs_claim"),
    sa.Index(
        "ai_jobs_due",
        "tenant_id",
        "rank",
        "due_ms",
        "job_id",
        **_where("state = 'queued' AND due_ms IS NOT NULL"),
    ),
    sa.Index("ai_jobs_held", "worker", **_where("state = 'processing' AND worker <> ''")),
    sa.Index("ai_jobs_waiting", "queue", "due_ms", **_where("state = 'queued'")),
    sa.Index("ai_jobs_parts", "parent_id", "position", **_where("parent_id <> ''")),
    sa.Index("ai_jobs_ends", "state", "job_id", **_where("parent_id = ''")),
    sa.Index("ai_jobs_expiry", "expires_at", **_where("expires_at IS NOT NULL")),
)

# Whose turn it is: the tenant that was served longest ago, of those with a job that is due. NULL: none waits.
ai_job_turns = sa.Table(
    "ai_job_turns",
    metadata,
    text("tenant_id", key=True),
    count("turn"),
    sa.Column("next_due_ms", sa.BigInteger, nullable=True),
    # As many of its completions as wait or are under way, or more: counted at counted_ms, and what was queued since.
    count("open_jobs"),
    count("counted_ms"),
    sa.Index("ai_job_turns_waiting", "turn", "tenant_id", **_where("next_due_ms IS NOT NULL")),
    sa.Index("ai_job_turns_last", "turn"),
    sqlite_with_rowid=False,
)

# Who runs jobs, and until when it is taken to be alive: milliseconds of the database's clock since the Unix epoch.
ai_job_workers = sa.Table(
    "ai_job_workers",
    metadata,
    text("worker", key=True),
    sa.Column("lease_ms", sa.BigInteger, nullable=False),
    text("started_at"),
    sqlite_with_rowid=False,
)

# How many runs of jobs ended how, since ever.
ai_job_totals = sa.Table(
    "ai_job_totals",
    metadata,
    text("queue", key=True),
    text("outcome", key=True),
    count("total"),
    sqlite_with_rowid=False,
)

# What is to become a job again and again.
ai_job_schedules = sa.Table(
    "ai_job_schedules",
    metadata,
    text("schedule_id", key=True),
    text("name"),
    text("tenant_id"),
    text("user_id"),
    text("service"),
    text("key_id"),
    text("cron"),
    text("timezone"),
    sa.Column("sealed_request", sa.LargeBinary, nullable=False),
    sa.Column("next_ms", sa.BigInteger, nullable=False),
    text("last_job_id"),
    text("created_at"),
    sa.Index("ai_job_schedules_next", "next_ms"),
    sa.Index("ai_job_schedules_tenant", "tenant_id", "schedule_id"),
    sqlite_with_rowid=False,
)
