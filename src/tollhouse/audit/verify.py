"""Proving the audit log: that each entry is as it was written, where it was written, and that none is missing."""

from collections.abc import Callable

import sqlalchemy as sa

from tollhouse.audit import store
from tollhouse.audit.chain import Head
from tollhouse.storage.schema import ai_audit_head, ai_audit_log

Add = Callable[[sa.Table, object, str], None]
"""Takes what does not fit: the table, what names the row there, and what is wrong."""


def verify(connection: sa.Connection, add: Add, anchor: Head | None = None) -> Head:
    """Follow the chain from its beginning; return its end.

    Args:
        add: is told of everything that does not fit.
        anchor: a place of the chain that was noted outside of the database. Whoever may write to all of it could
            compute a false chain anew, with another end; an end noted before is what such a chain cannot lead to.
    """
    found = Head()
    last = "the beginning"
    for entry_id, link, row_hash in store.chain(connection):
        if link.prev_hash != found.last_hash:
            add(
                ai_audit_log,
                entry_id,
                f"prev_hash is not the hash of {last}, which stands before it: rows between them were deleted, "
                "or one of them was put in, moved or changed",
            )
        if link.row_hash() != row_hash:
            add(ai_audit_log, entry_id, "row_hash does not fit the row: it was changed after it was written")
        found, last = Head(found.entries + 1, row_hash), f"row {entry_id}"
        if anchor is not None and anchor.entries == found.entries and anchor != found:
            add(
                ai_audit_log, entry_id, f"is entry {found}, but was {anchor} when the anchor was noted: rewritten since"
            )
    _check_end(connection, add, found)
    if anchor is not None and anchor.entries > found.entries:
        add(ai_audit_log, last, f"is the last of {found.entries} entries; there were {anchor.entries} at the anchor")
    return found


def _check_end(connection: sa.Connection, add: Add, found: Head) -> None:
    kept = store.head(connection)
    if found.entries < kept.entries:
        add(ai_audit_head, 1, f"{kept.entries} entries were written, {found.entries} are there: some were taken out")
    elif found.entries > kept.entries:
        add(ai_audit_head, 1, f"{kept.entries} entries were written, {found.entries} are there: some were put in")
    elif found != kept:
        add(ai_audit_head, 1, "last_hash is not the hash of the chain's last row")
