"""The audit log as JSON lines: everything that is hashed, so that any tool can follow the chain."""

from collections.abc import AsyncIterator, Iterable

import msgspec

from tollhouse.audit import store
from tollhouse.audit.chain import Link
from tollhouse.storage.database import Database

_ROWS_AT_ONCE = 500
_encoder = msgspec.json.Encoder()


class _Line(msgspec.Struct, frozen=True):
    """A row; ids are text and states are the very JSON that is stored, since that is what is hashed."""

    id: int
    created_at: str
    actor: str
    action: str
    tenant_id: str
    target: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None
    prev_hash: str
    row_hash: str


def lines(rows: Iterable[tuple[int, Link, str]]) -> bytes:
    """Return rows with their ids and hashes as JSON, a line each."""
    return _encoder.encode_lines([_line(*row) for row in rows])


def _line(entry_id: int, link: Link, row_hash: str) -> _Line:
    before, after = (None if text is None else msgspec.Raw(text) for text in (link.before, link.after))
    said = (link.created_at, link.actor, link.action, link.tenant_id, link.target)
    return _Line(entry_id, *said, before, after, link.prev_hash, row_hash)


async def export(
    database: Database, *, tenant_id: str | None, action: str | None, after_id: int
) -> AsyncIterator[bytes]:
    """Yield the entries after one as JSON lines, the oldest first, with some hundreds in memory at a time.

    Each piece is read by itself. None is left out for it, since entries are only ever added, and at the end.

    Raises:
        Unavailable: the database cannot be read.
    """
    while True:
        cursor = after_id
        rows = await database.read(
            lambda connection, cursor=cursor: store.following(  # type: ignore[misc]
                connection, tenant_id=tenant_id, action=action, after_id=cursor, limit=_ROWS_AT_ONCE
            )
        )
        if rows:
            yield lines(rows)
            after_id = rows[-1][0]
        if len(rows) < _ROWS_AT_ONCE:
            return
