"""The audit log's statements. They run on every engine."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.audit.chain import Head, Link
from tollhouse.audit.model import AuditEntry
from tollhouse.storage.schema import ai_audit_head, ai_audit_log

_LINK_COLUMNS = [ai_audit_log.c[name] for name in Link.__struct_fields__]
_ROWS_AT_ONCE = 2000


def append(connection: sa.Connection, entry: AuditEntry) -> None:
    """Write an entry, in the transaction of the change it tells of."""
    append_all(connection, [entry])


def append_all(connection: sa.Connection, entries: Iterable[AuditEntry]) -> None:
    """Write the entries of a change that concerns many.

    Best done last in its transaction: from here to its commit, nobody else can write to the audit log.
    """
    entries = list(entries)
    if not entries:
        return
    head = _lock_head(connection)
    rows = []
    for entry in entries:
        link = Link.of(entry, head.last_hash)
        head = Head(head.entries + 1, link.row_hash())
        rows.append({**msgspec.structs.asdict(link), "row_hash": head.last_hash})
    connection.execute(sa.insert(ai_audit_log), rows)
    connection.execute(sa.update(ai_audit_head).values(entries=head.entries, last_hash=head.last_hash))


def _lock_head(connection: sa.Connection) -> Head:
    """Return the end of the chain, which is nobody else's until this transaction ends."""
    wanted = sa.select(ai_audit_head.c.entries, ai_audit_head.c.last_hash).with_for_update()
    while (row := connection.execute(wanted).one_or_none()) is None:
        first = {"id": 1, **msgspec.structs.asdict(Head())}
        # Of two that write the very first entries, one makes it and the other one waits for it.
        connection.execute(_insert(connection)(ai_audit_head).values(first).on_conflict_do_nothing())
    return Head(*row)


def _insert(connection: sa.Connection) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def head(connection: sa.Connection) -> Head:
    """Return the end of the chain as it is on record."""
    row = connection.execute(sa.select(ai_audit_head.c.entries, ai_audit_head.c.last_hash)).one_or_none()
    return Head() if row is None else Head(*row)


def chain(connection: sa.Connection, after_id: int | None = None) -> Iterator[tuple[int, Link, str]]:
    """Yield rows in the order they were written, with id and hash; a bounded number is in memory.

    Args:
        after_id: the row after which to begin; None for the first of all.
    """
    wanted = sa.select(ai_audit_log.c.id, ai_audit_log.c.row_hash, *_LINK_COLUMNS).order_by(ai_audit_log.c.id)
    if after_id is not None:
        wanted = wanted.where(ai_audit_log.c.id > after_id)
    rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(wanted)
    for entry_id, row_hash, *values in rows:
        yield entry_id, Link(*values), row_hash


def page(
    connection: sa.Connection, *, tenant_id: str | None, action: str | None, before_id: int | None, limit: int
) -> list[tuple[int, AuditEntry]]:
    """Return up to ``limit`` entries, the newest first, each with its id."""
    statement = _wanted(tenant_id, action).order_by(ai_audit_log.c.id.desc()).limit(limit)
    if before_id is not None:
        statement = statement.where(ai_audit_log.c.id < before_id)
    return [(row.id, _entry(row)) for row in connection.execute(statement)]


def following(
    connection: sa.Connection, *, tenant_id: str | None, action: str | None, after_id: int, limit: int
) -> list[tuple[int, Link, str]]:
    """Return up to ``limit`` rows, the oldest first, of those after ``after_id``: each with its id and its hash."""
    statement = _wanted(tenant_id, action).where(ai_audit_log.c.id > after_id)
    found = connection.execute(statement.order_by(ai_audit_log.c.id).limit(limit)).mappings()
    return [(row["id"], Link(*(row[name] for name in Link.__struct_fields__)), row["row_hash"]) for row in found]


def _wanted(tenant_id: str | None, action: str | None) -> sa.Select[Any]:
    statement = sa.select(ai_audit_log)
    if tenant_id is not None:
        statement = statement.where(ai_audit_log.c.tenant_id == tenant_id)
    if action is not None:
        statement = statement.where(ai_audit_log.c.action == action)
    return statement


def _entry(row: sa.Row[Any]) -> AuditEntry:
    states = [None if text is None else msgspec.json.decode(text) for text in (row.before, row.after)]
    return AuditEntry(row.created_at, row.actor, row.action, row.tenant_id, row.target, *states)
