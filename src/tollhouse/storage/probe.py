"""Proof that the database takes writes, for health checks."""

import sqlalchemy as sa

from tollhouse.storage.schema import ai_settings

_NAME = "last_write_probe"


def touch(connection: sa.Connection, now: str) -> None:
    """Write one small row. An empty transaction would prove nothing: it never reaches the disk."""
    changed = connection.execute(sa.update(ai_settings).where(ai_settings.c.name == _NAME).values(value=now))
    if changed.rowcount == 0:
        connection.execute(sa.insert(ai_settings).values(name=_NAME, value=now))
