"""Entries of the audit log."""

from typing import Any

import msgspec


class AuditEntry(msgspec.Struct, frozen=True):
    """One change, or one event an operator has to know of.

    Attributes:
        created_at: ISO 8601 in UTC.
        actor: the id of the key that did it, or ``system``.
        action: what was done, as ``thing.verb``: ``tenant.updated``, ``key.revoked``, ``provider.switched``.
        tenant_id: whom it concerns, or "".
        target: what it was done to, such as a feature's slug or a key's id.
        before: the state before, or None where there was none.
        after: the state after, or None where there is none.
    """

    created_at: str
    actor: str
    action: str
    tenant_id: str
    target: str
    before: Any = None
    after: Any = None
