"""The audit log's hash chain: each entry's hash covers the one before it, so that none can change unnoticed."""

import hashlib
from typing import Any

import msgspec

from tollhouse.audit.model import AuditEntry

GENESIS_HASH = "0" * 64
"""What the first entry follows."""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """A row of ``ai_audit_log`` but for its id and its own hash, in the order that is hashed.

    Attributes:
        before: the state before as the JSON text that is stored, which is hashed as it stands.
        after: the state after, likewise.
        prev_hash: the ``row_hash`` of the row before, or ``GENESIS_HASH``.
    """

    created_at: str
    actor: str
    action: str
    tenant_id: str
    target: str
    before: str | None
    after: str | None
    prev_hash: str

    @classmethod
    def of(cls, entry: AuditEntry, prev_hash: str) -> "Link":
        """Return the row that an entry becomes after the row with the given hash."""
        before, after = (_text(state) for state in (entry.before, entry.after))
        return cls(entry.created_at, entry.actor, entry.action, entry.tenant_id, entry.target, before, after, prev_hash)

    def row_hash(self) -> str:
        """SHA-256, in hex, of the values as a compact JSON array in UTF-8."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Head(msgspec.Struct, frozen=True):
    """The end of the chain, or a place in it: how many entries it has up to there, and the hash of the last one."""

    entries: int = 0
    last_hash: str = GENESIS_HASH

    def __str__(self) -> str:
        return f"{self.entries}:{self.last_hash}"


def _text(state: Any) -> str | None:
    return None if state is None else msgspec.json.encode(state).decode()
