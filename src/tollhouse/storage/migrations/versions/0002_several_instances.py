"""Several instances: who holds a reservation or a claim; on PostgreSQL also the instances and a ledger by months."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for table in ("ai_reservations", "ai_idempotency"):
        op.add_column(table, sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        _make_instances()
        _partition_ledger()


def _make_instances() -> None:
    op.execute("CREATE INDEX ai_reservations_open ON ai_reservations (epoch) WHERE state = 'open'")
    op.execute(
        "CREATE INDEX ai_idempotency_unanswered ON ai_idempotency (epoch) WHERE sealed_answer IS NULL AND NOT is_lost"
    )
    op.create_table(
        "ai_instances",
        sa.Column("epoch", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("beat", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('live', 'lost', 'stopped')", name="ai_instances_state"),
        sa.PrimaryKeyConstraint("epoch"),
    )
    # What a crash of the database empties means a full bucket, so it need not be written ahead.
    op.create_table(
        "ai_rate_limits",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("full_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "ai_ledger_archives",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("first_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("entries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("last_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "first_id"),
    )
    # Rows that every call updates leave room for their next versions on their own page.
    for table, fill_percent in (
        ("ai_budgets", 50), ("ai_ledger_heads", 50), ("ai_usage_monthly", 70), ("ai_usage_daily", 70),
        ("ai_rate_limits", 50), ("ai_instances", 50),
    ):  # fmt: skip
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {fill_percent})")


def _partition_ledger() -> None:
    """Make ai_usage_log anew, by months; its rows keep their ids."""
    op.execute("ALTER TABLE ai_usage_log RENAME TO ai_usage_log_before_months")
    op.execute("ALTER SEQUENCE ai_usage_log_id_seq OWNED BY NONE")
    op.execute(
        "CREATE TABLE ai_usage_log (LIKE ai_usage_log_before_months INCLUDING DEFAULTS INCLUDING CONSTRAINTS) "
        "PARTITION BY LIST (billing_period)"
    )
    op.execute("ALTER SEQUENCE ai_usage_log_id_seq OWNED BY ai_usage_log.id")
    op.execute("ALTER TABLE ai_usage_log_before_months RENAME CONSTRAINT ai_usage_log_pkey TO ai_usage_log_before_pkey")
    op.execute(
        "ALTER TABLE ai_usage_log_before_months RENAME CONSTRAINT ai_usage_log_attempt TO ai_usage_log_before_attempt"
    )
    op.execute("ALTER TABLE ai_usage_log ADD CONSTRAINT ai_usage_log_pkey PRIMARY KEY (id, billing_period)")
    op.execute(
        "ALTER TABLE ai_usage_log ADD CONSTRAINT ai_usage_log_attempt "
        "UNIQUE (request_id, attempt, status, billing_period)"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON ai_usage_log, ai_audit_log FROM PUBLIC, CURRENT_USER")
    op.execute(
        "CREATE TRIGGER ai_usage_log_no_change BEFORE UPDATE OR DELETE ON ai_usage_log "
        "FOR EACH ROW EXECUTE FUNCTION ai_refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER ai_usage_log_no_truncate BEFORE TRUNCATE ON ai_usage_log EXECUTE FUNCTION ai_refuse_change()"
    )
    months = op.get_bind().scalars(sa.text("SELECT DISTINCT billing_period FROM ai_usage_log_before_months")).all()
    for month in months:
        partition = f"ai_usage_log_{month.replace('-', '_')}"
        op.execute(f"CREATE TABLE {partition} PARTITION OF ai_usage_log FOR VALUES IN ('{month}')")
        # As ai_open_month does: neither is taken over from the table it is a part of.
        op.execute(
            f"CREATE TRIGGER ai_usage_log_no_truncate BEFORE TRUNCATE ON {partition} "
            "EXECUTE FUNCTION ai_refuse_change()"
        )
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {partition} FROM PUBLIC, CURRENT_USER")
    op.execute("INSERT INTO ai_usage_log SELECT * FROM ai_usage_log_before_months ORDER BY id")
    op.execute("DROP TABLE ai_usage_log_before_months")
