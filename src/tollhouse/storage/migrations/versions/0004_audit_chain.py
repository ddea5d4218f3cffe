"""The audit log becomes a hash chain, entries that are there included; and keys know when they were first used."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_GENESIS = "0" * 64
_ROWS_AT_ONCE = 1000
_LOG = sa.table(
    "ai_audit_log",
    *(sa.column(name) for name in ("id", "created_at", "actor", "action", "tenant_id", "target", "before", "after")),
    sa.column("prev_hash"),
    sa.column("row_hash"),
)
_HASHED = ("created_at", "actor", "action", "tenant_id", "target", "before", "after")


def upgrade() -> None:
    op.add_column("ai_service_keys", sa.Column("first_used_at", sa.Text(), nullable=True))
    for name in ("prev_hash", "row_hash"):
        op.add_column("ai_audit_log", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.create_table(
        "ai_audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_hash", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name="ai_audit_head_one_row"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    if not connection.scalar(sa.text("SELECT EXISTS (SELECT 1 FROM ai_audit_log)")):
        return
    if connection.dialect.name == "postgresql":
        _chain_on_postgresql()
    else:
        _chain_on_sqlite()


def _chain_on_postgresql() -> None:
    # Nobody else writes to it meanwhile: the first of these locks it until the migration ends.
    op.execute("ALTER TABLE ai_audit_log DISABLE TRIGGER USER")
    op.execute("GRANT UPDATE ON ai_audit_log TO CURRENT_USER")
    _chain()
    op.execute("REVOKE UPDATE ON ai_audit_log FROM CURRENT_USER")
    op.execute("ALTER TABLE ai_audit_log ENABLE TRIGGER USER")


def _chain_on_sqlite() -> None:
    connection = op.get_bind()
    change = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = 'ai_audit_log_no_update'"
    refusal = str(connection.scalar(sa.text(change)))
    op.execute("DROP TRIGGER ai_audit_log_no_update")
    _chain()
    op.execute(refusal)


def _chain() -> None:
    """Hash each row with the one before it, as ``audit/chain.py`` does."""
    connection = op.get_bind()
    entries, last_id, last_hash = 0, None, _GENESIS
    while True:
        wanted = sa.select(_LOG).order_by(_LOG.c.id).limit(_ROWS_AT_ONCE)
        if last_id is not None:
            wanted = wanted.where(_LOG.c.id > last_id)
        rows = connection.execute(wanted).mappings().all()
        if not rows:
            break
        links = []
        for row in rows:
            values = [*(row[name] for name in _HASHED), last_hash]
            text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
            row_hash = hashlib.sha256(text.encode()).hexdigest()
            links.append({"of": row["id"], "prev_hash": last_hash, "row_hash": row_hash})
            last_id, last_hash = row["id"], row_hash
        entries += len(links)
        connection.execute(sa.update(_LOG).where(_LOG.c.id == sa.bindparam("of")), links)
    head = sa.table("ai_audit_head", sa.column("id"), sa.column("entries"), sa.column("last_hash"))
    connection.execute(sa.insert(head).values(id=1, entries=entries, last_hash=last_hash))
