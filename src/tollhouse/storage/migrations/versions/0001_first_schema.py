"""The first schema: tenants and features, caps and budgets, reservations, ledger, rollups, keys, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ai_audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ai_audit_log_tenant", "ai_audit_log", ["tenant_id", "id"], unique=False)
    op.create_table(
        "ai_budget_caps",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.Text(), nullable=False),
        sa.Column("cap_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.CheckConstraint("scope IN ('user', 'feature', 'key')", name="ai_budget_caps_scope"),
        sa.PrimaryKeyConstraint("tenant_id", "scope", "scope_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_budgets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.Text(), nullable=False),
        sa.Column("cap_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("posted_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("scope IN ('tenant', 'user', 'feature', 'key')", name="ai_budgets_scope"),
        sa.CheckConstraint("reserved_nano_usd >= 0", name="ai_budgets_reserved"),
        sa.PrimaryKeyConstraint("tenant_id", "billing_period", "scope", "scope_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_idempotency",
        sa.Column("claim_id", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("sealed_answer", sa.LargeBinary(), nullable=True),
        sa.Column("is_lost", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ai_idempotency_expiry", "ai_idempotency", ["expires_at"], unique=False)
    op.create_table(
        "ai_ledger_heads",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("entries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_reservations",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("price_version", sa.Text(), nullable=False),
        sa.Column("ceiling_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'unknown')", name="ai_reservations_state"),
        sa.PrimaryKeyConstraint("request_id", "attempt"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_service_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tenants", sa.Text(), nullable=True),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.Text(), nullable=True),
        sa.CheckConstraint("role IN ('service', 'reader', 'super-admin')", name="ai_service_keys_role"),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("digest", name="ai_service_keys_digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_usage_daily",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unknown_calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unknown_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "billing_period", "day"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ai_usage_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("price_version", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("usage_source", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Integer(), nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("admitted_at", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("row_hash", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "status = 'settled' OR status = 'unknown' OR status = 'adjustment'", name="ai_usage_log_status"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request_id", "attempt", "status", name="ai_usage_log_attempt"),
    )
    op.create_table(
        "ai_usage_monthly",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("billing_period", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unknown_calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unknown_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "billing_period", "user_id", "feature_slug", "service", "key_id", "model", "provider"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tenant_ai_features",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("feature_slug", sa.Text(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "feature_slug"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tenant_ai_modules",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=True),
        sa.Column("budget_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("has_own_budget", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        _refuse_changes_on_postgresql()
        return
    for table in ("ai_usage_log", "ai_audit_log"):
        _make_append_only(table)
    op.execute(
        "CREATE TRIGGER ai_usage_log_no_replaced_attempt BEFORE INSERT ON ai_usage_log WHEN EXISTS (SELECT 1 "
        "FROM ai_usage_log WHERE request_id = NEW.request_id AND attempt = NEW.attempt AND status = NEW.status) "
        "BEGIN SELECT RAISE(ABORT, 'ai_usage_log has a row of this attempt already'); END"
    )


def _make_append_only(table: str) -> None:
    refusal = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only: write a further row'); END"
    for change in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} {refusal}")
    # INSERT OR REPLACE deletes the row in its way without firing the trigger above.
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) {refusal}"
    )


def _refuse_changes_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION ai_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only: write a further row', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; "
        "END $$"
    )
    for table in ("ai_usage_log", "ai_audit_log"):
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ai_refuse_change()"
        )
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION ai_refuse_change()")
