"""The control plane's statements: limits of single tenants, users, features and keys. They run on every engine.

An admission reads them in its own transaction: what is changed here holds for every call that is admitted afterwards.
"""

import sqlalchemy as sa

from tollhouse.limits.model import OWN_FIELDS, LimitKey, OwnLimit
from tollhouse.storage.schema import ai_limits

_TABLE = ai_limits.c
_VALUES = [_TABLE[name] for name in OWN_FIELDS]


def find(connection: sa.Connection, key: LimitKey) -> OwnLimit | None:
    """Return the limits that somebody has of their own; None where there are none."""
    row = connection.execute(sa.select(*_VALUES).where(_is(key))).one_or_none()
    return None if row is None else OwnLimit(*row)


def of_tenant(connection: sa.Connection, tenant_id: str) -> dict[LimitKey, OwnLimit]:
    """Return all such limits of a tenant, its users and its features."""
    wanted = sa.select(_TABLE.scope, _TABLE.scope_id, *_VALUES).where(_TABLE.tenant_id == tenant_id)
    rows = connection.execute(wanted.order_by(_TABLE.scope, _TABLE.scope_id))
    return {LimitKey(tenant_id, scope, scope_id): OwnLimit(*values) for scope, scope_id, *values in rows}


def save(connection: sa.Connection, key: LimitKey, limit: OwnLimit, now: str) -> None:
    """Give somebody limits of their own, in the place of all that they had."""
    remove(connection, key)
    values = {name: getattr(limit, name) for name in OWN_FIELDS}
    connection.execute(sa.insert(ai_limits).values(**key._asdict(), **values, updated_at=now))


def remove(connection: sa.Connection, key: LimitKey) -> None:
    """Let the configuration's limits hold for somebody again."""
    connection.execute(sa.delete(ai_limits).where(_is(key)))


def _is(key: LimitKey) -> sa.ColumnElement[bool]:
    return sa.and_(*(_TABLE[name] == value for name, value in key._asdict().items()))
