"""The tables of events and webhooks; a part of ``schema.py``, where it is said what is the same in all."""

import sqlalchemy as sa

from tollhouse.storage.columns import count, metadata, optional_text, text

# What happened, written in the transaction in which it did. The order of ids is that of writing; that of positions is
# what readers go by: an event gets its own once it is committed, so that none appears before one already read.
ai_events = sa.Table(
    "ai_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=True),
    text("event_id"),
    text("type"),
    text("tenant_id"),
    text("user_id"),
    text("subject"),
    # A JSON object, without prompts, answers or secrets.
    text("data"),
    text("created_at"),
    # Where this one event is to be sent besides, or ''.
    text("webhook_url"),
    sa.Index("ai_events_position", "position", unique=True),
    sa.Index("ai_events_tenant", "tenant_id", "position"),
    sa.Index(
        "ai_events_unplaced",
        "id",
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    ),
)

# How far the order goes, and up to where its events are gone: one row, locked by whoever gives out positions.
ai_event_head = sa.Table(
    "ai_event_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    count("last_position"),
    count("gone_position"),
    sa.CheckConstraint("id = 1", name="ai_event_head_one_row"),
    sqlite_with_rowid=False,
)

# How far those who go through all events have come, by what they do.
ai_event_cursors = sa.Table(
    "ai_event_cursors",
    metadata,
    text("name", key=True),
    count("position"),
    sqlite_with_rowid=False,
)

# Where events are sent. Secrets are sealed under the pepper.
ai_webhook_endpoints = sa.Table(
    "ai_webhook_endpoints",
    metadata,
    text("endpoint_id", key=True),
    text("tenant_id"),
    text("url"),
    # A JSON list, or NULL for every type.
    optional_text("types"),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("sealed_previous", sa.LargeBinary, nullable=True),
    optional_text("previous_until"),
    sa.Column("is_enabled", sa.Boolean, nullable=False),
    text("off_reason"),
    count("failures"),
    count("from_position"),
    text("created_at"),
    text("updated_at"),
    sqlite_with_rowid=False,
)

# Events on their way to an endpoint. One that is being tried is not due before whoever tries it must have given up.
ai_webhook_deliveries = sa.Table(
    "ai_webhook_deliveries",
    metadata,
    text("delivery_id", key=True),
    text("endpoint_id"),
    text("url"),
    text("event_id"),
    text("event_type"),
    text("tenant_id"),
    text("payload"),
    text("state"),
    count("attempts"),
    text("next_at"),
    text("owner"),
    sa.Column("last_status", sa.Integer, nullable=True),
    text("last_problem"),
    text("created_at"),
    optional_text("ended_at"),
    sa.CheckConstraint("state IN ('waiting', 'delivered', 'dead')", name="ai_webhook_deliveries_state"),
    sa.Index(
        "ai_webhook_deliveries_due",
        "next_at",
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    ),
    sa.Index("ai_webhook_deliveries_of_endpoint", "endpoint_id", "state", "next_at"),
    sa.Index("ai_webhook_deliveries_ended", "ended_at"),
)
