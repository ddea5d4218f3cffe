"""Every table, once, for every engine. The public ones are described in docs/tables.md.

Times are text in UTC with milliseconds (``2026-04-01T12:00:00.000Z``): readable in any tool, and sorted by time.
Money is integer nano-USD. Ids that callers choose (tenant, user) are text; an absent one is the empty string,
because a NULL would be left out of keys and of equality.
"""

import sqlalchemy as sa

from tollhouse.storage import event_schema as event_schema  # noqa: PLC0414 - its tables are of the metadata too
from tollhouse.storage import job_schema as job_schema  # noqa: PLC0414 - likewise
from tollhouse.storage.columns import count as _count
from tollhouse.storage.columns import metadata as metadata  # noqa: PLC0414
from tollhouse.storage.columns import money as _money
from tollhouse.storage.columns import optional_text as _optional_text
from tollhouse.storage.columns import row_hash as _hash
from tollhouse.storage.columns import text as _text

# The newest migration. A database with another one is migrated (older) or refused (newer).
REVISION = "0011"

tenant_ai_modules = sa.Table(
    "tenant_ai_modules",
    metadata,
    _text("tenant_id", key=True),
    _text("name"),
    _text("tier"),
    sa.Column("is_active", sa.Boolean, nullable=False),
    _optional_text("expires_at"),
    _money("budget_nano_usd"),
    # False: the budget is the tier's, and follows it when the configuration changes.
    sa.Column("has_own_budget", sa.Boolean, nullable=False),
    _text("created_at"),
    _text("updated_at"),
    sqlite_with_rowid=False,
)

tenant_ai_features = sa.Table(
    "tenant_ai_features",
    metadata,
    _text("tenant_id", key=True),
    _text("feature_slug", key=True),
    sa.Column("is_enabled", sa.Boolean, nullable=False),
    _text("updated_at"),
    sqlite_with_rowid=False,
)

# Standing caps below the tenant's own: for a user or a feature of a tenant, or for a service key (tenant_id '').
ai_budget_caps = sa.Table(
    "ai_budget_caps",
    metadata,
    _text("tenant_id", key=True),
    _text("scope", key=True),
    _text("scope_id", key=True),
    _money("cap_nano_usd"),
    _text("updated_at"),
    sa.CheckConstraint("scope IN ('user', 'feature', 'key')", name="ai_budget_caps_scope"),
    sqlite_with_rowid=False,
)

# What limits a single tenant, user, feature or service key (tenant_id '') in the place of what is configured. NULL: as
# configured; 0: no limit.
ai_limits = sa.Table(
    "ai_limits",
    metadata,
    _text("tenant_id", key=True),
    _text("scope", key=True),
    _text("scope_id", key=True),
    sa.Column("requests_per_minute", sa.BigInteger, nullable=True),
    sa.Column("burst", sa.BigInteger, nullable=True),
    sa.Column("tokens_per_minute", sa.BigInteger, nullable=True),
    sa.Column("concurrent_calls", sa.BigInteger, nullable=True),
    _text("updated_at"),
    sa.CheckConstraint("scope IN ('tenant', 'user', 'feature', 'key')", name="ai_limits_scope"),
    sqlite_with_rowid=False,
)

# One row for each cap and month. A new month is a new row: money is never reset.
ai_budgets = sa.Table(
    "ai_budgets",
    metadata,
    _text("tenant_id", key=True),
    _text("billing_period", key=True),
    _text("scope", key=True),
    _text("scope_id", key=True),
    _money("cap_nano_usd"),
    _money("posted_nano_usd"),
    _money("reserved_nano_usd"),
    # The highest share of the cap of which it was told that it is spent, in percent; 0 for none.
    sa.Column("told_percent", sa.Integer, nullable=False, server_default="0"),
    sa.CheckConstraint("scope IN ('tenant', 'user', 'feature', 'key')", name="ai_budgets_scope"),
    sa.CheckConstraint("reserved_nano_usd >= 0", name="ai_budgets_reserved"),
    sqlite_with_rowid=False,
)

# Ceilings that are spoken for: 'open' while the attempt runs, 'unknown' when its outcome was lost.
ai_reservations = sa.Table(
    "ai_reservations",
    metadata,
    _text("request_id", key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, nullable=False),
    _text("tenant_id"),
    _text("user_id"),
    _text("feature_slug"),
    _text("service"),
    _text("key_id"),
    _text("model"),
    _text("provider"),
    _text("price_version"),
    _money("ceiling_nano_usd"),
    _text("billing_period"),
    _text("created_at"),
    _text("state"),
    # Which instance's life the attempt belongs to (ai_instances); an embedded database has but one at a time, 0.
    _count("epoch"),
    # Taken from limits on tokens, for what is left over to be given back; an embedded database has it in memory.
    _count("tokens"),
    sa.CheckConstraint("state IN ('open', 'unknown')", name="ai_reservations_state"),
    sqlite_with_rowid=False,
)

# On PostgreSQL it is partitioned by billing_period, which its keys then hold too.
ai_usage_log = sa.Table(
    "ai_usage_log",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    _text("request_id"),
    sa.Column("attempt", sa.Integer, nullable=False),
    _text("tenant_id"),
    _text("user_id"),
    _text("feature_slug"),
    _text("service"),
    _text("key_id"),
    _text("model"),
    _text("provider"),
    _count("input_tokens"),
    _count("cached_input_tokens"),
    _count("cache_write_tokens"),
    _count("cache_write_1h_tokens"),
    _count("output_tokens"),
    _count("reasoning_tokens"),
    _count("total_tokens"),
    _money("cost_nano_usd"),
    _text("price_version"),
    _text("status"),
    # 'reported' by the provider, 'estimated' from the text, or 'none' where nothing is known.
    _text("usage_source"),
    _text("finish_reason"),
    sa.Column("latency_ms", sa.Integer, nullable=False),
    _text("billing_period"),
    _text("admitted_at"),
    _text("created_at"),
    _text("prev_hash"),
    _text("row_hash"),
    # The classes of usage that few calls have, as a JSON object of those that are not 0.
    sa.Column("other_usage", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("request_id", "attempt", "status", name="ai_usage_log_attempt"),
    # Spelt out, since SQLite builds a temporary table for every row that it compares with a list of more than two.
    sa.CheckConstraint("status = 'settled' OR status = 'unknown' OR status = 'adjustment'", name="ai_usage_log_status"),
)

# The end of each tenant's hash chain: without it, rows cut off the end of the ledger would not be missed.
ai_ledger_heads = sa.Table(
    "ai_ledger_heads",
    metadata,
    _text("tenant_id", key=True),
    _count("entries"),
    _text("last_hash"),
    sqlite_with_rowid=False,
)

# What a rollup row counts, in the order of its columns.
ROLLUP_COUNTS = (
    "calls",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "cost_nano_usd",
    "unknown_calls",
    "unknown_nano_usd",
)

ai_usage_monthly = sa.Table(
    "ai_usage_monthly",
    metadata,
    _text("tenant_id", key=True),
    _text("billing_period", key=True),
    _text("user_id", key=True),
    _text("feature_slug", key=True),
    _text("service", key=True),
    _text("key_id", key=True),
    _text("model", key=True),
    _text("provider", key=True),
    *(_count(name) for name in ROLLUP_COUNTS),
    sqlite_with_rowid=False,
)

ai_usage_daily = sa.Table(
    "ai_usage_daily",
    metadata,
    _text("tenant_id", key=True),
    _text("billing_period", key=True),
    _text("day", key=True),
    *(_count(name) for name in ROLLUP_COUNTS),
    sqlite_with_rowid=False,
)

# Answers kept for idempotency keys. Neither the key, the body nor the answer can be read from a row.
ai_idempotency = sa.Table(
    "ai_idempotency",
    metadata,
    _text("claim_id", key=True),
    _text("body_digest"),
    _text("request_id"),
    sa.Column("sealed_answer", sa.LargeBinary, nullable=True),
    # The call may have been billed, and its answer was lost: it is not made again under the same key.
    sa.Column("is_lost", sa.Boolean, nullable=False, server_default=sa.false()),
    _text("expires_at"),
    _count("epoch"),
    sa.Index("ai_idempotency_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

ai_service_keys = sa.Table(
    "ai_service_keys",
    metadata,
    _text("key_id", key=True),
    _text("service"),
    _text("role"),
    # A JSON list of tenant ids, or NULL for every tenant.
    _optional_text("tenants"),
    _text("feature_slug"),
    _text("digest"),
    _text("created_at"),
    _optional_text("revoked_at"),
    # When it was first seen in use; NULL: not since this is kept.
    _optional_text("first_used_at"),
    sa.UniqueConstraint("digest", name="ai_service_keys_digest"),
    sa.CheckConstraint("role IN ('service', 'reader', 'super-admin')", name="ai_service_keys_role"),
    sqlite_with_rowid=False,
)

ai_audit_log = sa.Table(
    "ai_audit_log",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    _text("created_at"),
    _text("actor"),
    _text("action"),
    _text("tenant_id"),
    _text("target"),
    _optional_text("before"),
    _optional_text("after"),
    _hash("prev_hash"),
    _hash("row_hash"),
    sa.Index("ai_audit_log_tenant", "tenant_id", "id"),
)

# The end of the audit log's chain, locked by whoever writes to it.
ai_audit_head = sa.Table(
    "ai_audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _count("entries"),
    _text("last_hash"),
    sa.CheckConstraint("id = 1", name="ai_audit_head_one_row"),
    sqlite_with_rowid=False,
)

# What guardrails found in calls, by kind and count and never by value.
ai_guardrail_findings = sa.Table(
    "ai_guardrail_findings",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    _text("created_at"),
    _text("request_id"),
    _text("tenant_id"),
    _text("user_id"),
    _text("feature_slug"),
    _text("stage"),
    _text("guard"),
    _text("kind"),
    _text("action"),
    _count("found"),
    sa.CheckConstraint("stage IN ('input', 'output')", name="ai_guardrail_findings_stage"),
    sa.CheckConstraint("action IN ('flag', 'redact', 'block')", name="ai_guardrail_findings_action"),
    sa.Index("ai_guardrail_findings_call", "request_id"),
    sa.Index("ai_guardrail_findings_tenant", "tenant_id", "id"),
)

# Facts about this database itself, such as the fingerprint of the pepper its keys were made with.
ai_settings = sa.Table(
    "ai_settings",
    metadata,
    _text("name", key=True),
    _text("value"),
    sqlite_with_rowid=False,
)

# What only a database of several instances has: none of it on SQLite.
cluster_metadata = sa.MetaData()

# A row for each life of an instance. An epoch that is not live admits nothing, and ends nothing.
ai_instances = sa.Table(
    "ai_instances",
    cluster_metadata,
    sa.Column("epoch", sa.BigInteger, sa.Identity(), primary_key=True),
    _text("instance_id"),
    _text("state"),
    # Counts up while the instance lives; others watch whether it still does.
    _count("beat"),
    _text("version"),
    _text("started_at"),
    _text("seen_at"),
    _optional_text("ended_at"),
    sa.CheckConstraint("state IN ('live', 'lost', 'stopped')", name="ai_instances_state"),
)

# What is taken from the buckets of calls and of tokens (limits/bucket.py), and the rates at which that drains; at_us is
# the microsecond of the database's clock, since the Unix epoch, until which it has drained.
ai_rate_limits = sa.Table(
    "ai_rate_limits",
    cluster_metadata,
    _text("tenant_id", key=True),
    _text("scope", key=True),
    _text("scope_id", key=True),
    _count("requests_taken"),
    _count("requests_per_minute"),
    _count("tokens_taken"),
    _count("tokens_per_minute"),
    _count("at_us"),
    prefixes=["UNLOGGED"],
)

# Where the rows of archived months stood in their tenants' chains: each run of rows from one hash to another.
ai_ledger_archives = sa.Table(
    "ai_ledger_archives",
    cluster_metadata,
    _text("tenant_id", key=True),
    sa.Column("first_id", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("billing_period"),
    _count("entries"),
    _text("prev_hash"),
    _text("last_hash"),
)
