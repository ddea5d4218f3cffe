"""The statements on service keys. They run on every engine."""

from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.keys.model import ServiceKey
from tollhouse.storage.schema import ai_service_keys, ai_settings

_FINGERPRINT = "pepper_fingerprint"
_PEPPER = "pepper"
_VERSION = "keys_version"

CHANGED_CHANNEL = "tollhouse_keys"
"""Where changes of keys are told to the other instances, on PostgreSQL."""


def add(connection: sa.Connection, key: ServiceKey) -> None:
    """Insert a key."""
    tenants = None if key.tenants is None else msgspec.json.encode(key.tenants).decode()
    connection.execute(sa.insert(ai_service_keys).values({**msgspec.structs.asdict(key), "tenants": tenants}))
    _tell_of_change(connection)


def find(connection: sa.Connection, key_id: str) -> ServiceKey | None:
    """Return a key, revoked or not."""
    row = connection.execute(sa.select(ai_service_keys).where(ai_service_keys.c.key_id == key_id)).one_or_none()
    return None if row is None else _key(row)


def everything(connection: sa.Connection) -> list[ServiceKey]:
    """Return all keys, the oldest first."""
    rows = connection.execute(sa.select(ai_service_keys).order_by(ai_service_keys.c.key_id))
    return [_key(row) for row in rows]


def revoke(connection: sa.Connection, key_id: str, now: str) -> None:
    """Mark a key as revoked."""
    connection.execute(sa.update(ai_service_keys).where(ai_service_keys.c.key_id == key_id).values(revoked_at=now))
    _tell_of_change(connection)


def mark_used(connection: sa.Connection, key_id: str, now: str) -> bool:
    """Note when a key was first used; return False where that is on record, or there is no such key."""
    table = ai_service_keys.c
    marked = connection.execute(
        sa.update(ai_service_keys)
        .where(table.key_id == key_id, table.first_used_at.is_(None))
        .values(first_used_at=now)
    )
    return marked.rowcount == 1


def _tell_of_change(connection: sa.Connection) -> None:
    """Have every other instance read the keys anew: it looks for another version, and sooner when it is told."""
    version = _setting(connection, _VERSION)
    _set(connection, _VERSION, str(int(version or 0) + 1))
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANGED_CHANNEL, "")))


def pepper_fingerprint(connection: sa.Connection) -> str | None:
    """Return the fingerprint of the pepper the keys were made with, or None before the first start."""
    return _setting(connection, _FINGERPRINT)


def set_pepper_fingerprint(connection: sa.Connection, fingerprint: str) -> str:
    """Record the pepper's fingerprint, unless there is one; return the one on record."""
    return _set_once(connection, _FINGERPRINT, fingerprint)


def stored_pepper(connection: sa.Connection) -> str | None:
    """Return the pepper that is kept in the database, in hex, or None."""
    return _setting(connection, _PEPPER)


def store_pepper(connection: sa.Connection, pepper: str) -> str:
    """Keep a pepper, in hex, unless there is one; return the one that is kept."""
    return _set_once(connection, _PEPPER, pepper)


def _setting(connection: sa.Connection, name: str) -> str | None:
    return connection.scalar(sa.select(ai_settings.c.value).where(ai_settings.c.name == name))


def _set(connection: sa.Connection, name: str, value: str) -> None:
    changed = connection.execute(sa.update(ai_settings).where(ai_settings.c.name == name).values(value=value))
    if changed.rowcount == 0:
        connection.execute(sa.insert(ai_settings).values(name=name, value=value))


def _set_once(connection: sa.Connection, name: str, value: str) -> str:
    # Two instances that start together: the second insert fails, and its transaction is run again.
    kept = _setting(connection, name)
    if kept is None:
        connection.execute(sa.insert(ai_settings).values(name=name, value=value))
        return value
    return kept


def _key(row: sa.Row[Any]) -> ServiceKey:
    fields = row._asdict()
    fields["tenants"] = None if row.tenants is None else tuple(msgspec.json.decode(row.tenants, type=list[str]))
    return ServiceKey(**fields)
