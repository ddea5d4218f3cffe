"""The audit log's statements. They run on every engine."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.audit.model import AuditEntry
from tollhouse.storage.schema import ai_audit_log


def append(connection: sa.Connection, entry: AuditEntry) -> None:
    """Write an entry, in the transaction of the change it tells of."""
    append_all(connection, [entry])


def append_all(connection: sa.Connection, entries: Iterable[AuditEntry]) -> None:
    """Write the entries of a change that concerns many."""
    rows = [
        {**msgspec.structs.asdict(entry), "before": _text(entry.before), "after": _text(entry.after)}
        for entry in entries
    ]
    if rows:
        connection.execute(sa.insert(ai_audit_log), rows)


def _text(state: Any) -> str | None:
    return None if state is None else msgspec.json.encode(state).decode()


def page(
    connection: sa.Connection, *, tenant_id: str | None, action: str | None, before_id: int | None, limit: int
) -> list[tuple[int, AuditEntry]]:
    """Return up to ``limit`` entries, the newest first, each with its id."""
    table = ai_audit_log.c
    statement = sa.select(ai_audit_log).order_by(table.id.desc()).limit(limit)
    if tenant_id is not None:
        statement = statement.where(table.tenant_id == tenant_id)
    if action is not None:
        statement = statement.where(table.action == action)
    if before_id is not None:
        statement = statement.where(table.id < before_id)
    return [(row.id, _entry(row)) for row in connection.execute(statement)]


def _entry(row: sa.Row[Any]) -> AuditEntry:
    states = [None if text is None else msgspec.json.decode(text) for text in (row.before, row.after)]
    return AuditEntry(row.created_at, row.actor, row.action, row.tenant_id, row.target, *states)
