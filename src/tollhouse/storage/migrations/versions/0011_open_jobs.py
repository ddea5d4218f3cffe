"""How many completions of each tenant wait or are under way, so that there may be a bound to them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Two counts, each spelt out as its index is: by one with OR, an embedded database reads all jobs for each tenant.
COUNT_OPEN_JOBS = (
    "UPDATE ai_job_turns SET open_jobs = (SELECT count(*) FROM ai_jobs "
    "WHERE ai_jobs.tenant_id = ai_job_turns.tenant_id AND state = 'queued' AND due_ms IS NOT NULL) "
    "+ (SELECT count(*) FROM ai_jobs "
    "WHERE ai_jobs.tenant_id = ai_job_turns.tenant_id AND state = 'processing' AND worker <> '')"
)


def upgrade() -> None:
    for name in ("open_jobs", "counted_ms"):
        op.add_column("ai_job_turns", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.execute(COUNT_OPEN_JOBS)
