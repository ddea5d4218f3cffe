"""What guardrails found in calls, by kind and count."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "ai_guardrail_findings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("guard", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("found", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("stage IN ('input', 'output')", name="ai_guardrail_findings_stage"),
        sa.CheckConstraint("action IN ('flag', 'redact', 'block')", name="ai_guardrail_findings_action"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ai_guardrail_findings_call", "ai_guardrail_findings", ["request_id"])
    op.create_index("ai_guardrail_findings_tenant", "ai_guardrail_findings", ["tenant_id", "id"])
