"""The statements on service keys. They run on every engine."""

from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.keys.model import ServiceKey
from tollhouse.storage.schema import ai_service_keys, ai_settings

_FINGERPRINT = "pepper_fingerprint"


def add(connection: sa.Connection, key: ServiceKey) -> None:
    """Insert a key."""
    tenants = None if key.tenants is None else msgspec.json.encode(key.tenants).decode()
    connection.execute(sa.insert(ai_service_keys).values({**msgspec.structs.asdict(key), "tenants": tenants}))


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


def pepper_fingerprint(connection: sa.Connection) -> str | None:
    """Return the fingerprint of the pepper the keys were made with, or None before the first start."""
    return connection.scalar(sa.select(ai_settings.c.value).where(ai_settings.c.name == _FINGERPRINT))


def set_pepper_fingerprint(connection: sa.Connection, fingerprint: str) -> None:
    """Record the pepper's fingerprint."""
    connection.execute(sa.insert(ai_settings).values(name=_FINGERPRINT, value=fingerprint))


def _key(row: sa.Row[Any]) -> ServiceKey:
    fields = row._asdict()
    fields["tenants"] = None if row.tenants is None else tuple(msgspec.json.decode(row.tenants, type=list[str]))
    return ServiceKey(**fields)
