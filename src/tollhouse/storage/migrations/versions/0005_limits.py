"""Limits of single tenants, users, features and keys; on tokens and on calls at the same time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "ai_limits",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("burst", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("concurrent_calls", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.CheckConstraint("scope IN ('tenant', 'user', 'feature', 'key')", name="ai_limits_scope"),
        sa.PrimaryKeyConstraint("tenant_id", "scope", "scope_id"),
        sqlite_with_rowid=False,
    )
    op.add_column("ai_reservations", sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        _widen_rate_limits()
        # The calls that run are counted by tenant and by key; those of an epoch are looked for seldom.
        op.execute("DROP INDEX ai_reservations_open")
        op.execute("CREATE INDEX ai_reservations_open ON ai_reservations (tenant_id) WHERE state = 'open'")
        op.execute("CREATE INDEX ai_reservations_open_of_key ON ai_reservations (key_id) WHERE state = 'open'")


def _widen_rate_limits() -> None:
    """Make the buckets anew, all of them full: what they held is of the last moments."""
    op.drop_table("ai_rate_limits")
    op.create_table(
        "ai_rate_limits",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.Text(), nullable=False),
        sa.Column("requests_taken", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_taken", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_per_minute", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("at_us", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "scope", "scope_id"),
        prefixes=["UNLOGGED"],
    )
    op.execute("ALTER TABLE ai_rate_limits SET (fillfactor = 50)")
