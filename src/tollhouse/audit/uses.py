"""Uses of keys that an operator has to know of, written so that whoever holds a key cannot flood the audit log."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import sqlalchemy as sa
import structlog

from tollhouse.audit import store
from tollhouse.audit.model import AuditEntry
from tollhouse.errors import Unavailable
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

FIRST_USED: Final = "key.first_used"
ADMIN_USED: Final = "admin_key.used"
Action = Literal["key.first_used", "key.used_after_revocation", "key.used_for_foreign_tenant", "admin_key.used"]

# A key's uses of one kind are one entry at once, and then one an hour that counts those since.
_GATHER_S = 3600.0
# However many keys there are: the rest of a minute's entries is written in the next one.
_MOST_A_MINUTE = 60
_MINUTE_S = 60.0
_WRITE_EVERY_S = 1.0
# Kinds of uses that are counted at a time; what is beyond is counted together.
_MOST_COUNTED = 10_000
# Of the addresses and tenants of one entry, these many are named.
_MOST_NAMED = 10
_OTHERS = "others"
_LOG = structlog.get_logger("tollhouse.audit")

ClaimFirst = Callable[[sa.Connection, str, str], bool]
"""Marks a key as used at a time, given as text; returns False for one that was marked before."""


class Uses(msgspec.Struct):
    """Uses of one kind, of one key, that no entry tells of yet.

    Attributes:
        due_at_s: when the next entry may be written, by the monotonic clock.
        since_ms: when the first of them was.
        addresses: where they came from, the first few.
        tenants: whom they were for, likewise.
        unnamed: whether there were more of either.
    """

    due_at_s: float
    count: int = 0
    since_ms: int = 0
    addresses: list[str] = []
    tenants: list[str] = []
    unnamed: bool = False

    def add(self, now_ms: int, address: str, tenant_id: str) -> None:
        """Count a use; an address or a tenant that is not known is ""."""
        if self.count == 0:
            self.since_ms = now_ms
        self.count += 1
        self._name(self.addresses, address)
        self._name(self.tenants, tenant_id)

    def add_all(self, later: "Uses") -> None:
        """Count uses that were after these."""
        self.count += later.count
        self.unnamed |= later.unnamed
        for address in later.addresses:
            self._name(self.addresses, address)
        for tenant_id in later.tenants:
            self._name(self.tenants, tenant_id)

    def _name(self, named: list[str], name: str) -> None:
        if not name or name in named:
            return
        if len(named) < _MOST_NAMED:
            named.append(name)
        else:
            self.unnamed = True

    def told(self) -> dict[str, object]:
        """Return what the entry says."""
        state = {
            "uses": self.count,
            "since": utc_text(self.since_ms),
            "addresses": self.addresses,
            "tenants": self.tenants,
            "more_unnamed": self.unnamed,
        }
        return {name: value for name, value in state.items() if value}


_Kind = tuple[Action, str, str]
"""What was done and with which key; and for the admin key from where, so that each new place is told at once."""


class NotableUses:
    """Counts notable uses of keys in memory, and has them written a moment later.

    No call waits for it. A process that is killed loses what it counted in the last second, but not that a key was
    used for the first time: that is marked with the key, and told at its next use.
    """

    def __init__(self, database: Database, clock: Clock, claim_first: ClaimFirst) -> None:
        self._database = database
        self._clock = clock
        self._claim_first = claim_first
        self._counted: dict[_Kind, Uses] = {}
        self._minute_ends_s = 0.0
        self._left_in_minute = _MOST_A_MINUTE

    def note(self, action: Action, key_id: str, *, address: str = "", tenant_id: str = "") -> None:
        """Count a use; to be called in the event loop, and at any rate."""
        kind = (action, key_id, address if action == ADMIN_USED else "")
        uses = self._counted.get(kind)
        if uses is None:
            if len(self._counted) >= _MOST_COUNTED:
                kind = (action, _OTHERS, "")
            uses = self._counted.setdefault(kind, Uses(due_at_s=self._clock.monotonic_s()))
        uses.add(self._clock.now_ms(), address, tenant_id)

    async def keep_writing(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            await self._write_or_tell(self._due())

    async def flush(self) -> None:
        """Write what was counted and never told, for the end of the process; at most a minute's worth."""
        await self._write_or_tell([kind for kind, uses in self._counted.items() if uses.count][:_MOST_A_MINUTE])

    async def _write_or_tell(self, kinds: list[_Kind]) -> None:
        try:
            await self.write(kinds)
        except Unavailable as error:
            _LOG.warning("uses of keys are entered later", reason=error.message)

    def _due(self) -> list[_Kind]:
        """Return the kinds whose entry is to be written now, and forget those of an hour without uses."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._minute_ends_s:
            self._minute_ends_s, self._left_in_minute = now_s + _MINUTE_S, _MOST_A_MINUTE
        due = [kind for kind, uses in self._counted.items() if uses.due_at_s <= now_s]
        for kind in due:
            if self._counted[kind].count == 0:
                del self._counted[kind]
        return [kind for kind in due if kind in self._counted][: self._left_in_minute]

    async def write(self, kinds: list[_Kind]) -> None:
        """Enter uses that were counted; raises Unavailable, and they stay counted."""
        if not kinds:
            return
        now = utc_text(self._clock.now_ms())
        taken = {kind: self._counted[kind] for kind in kinds}
        gathered_until_s = self._clock.monotonic_s() + _GATHER_S
        # What comes while they are written is counted anew.
        self._counted |= {kind: Uses(due_at_s=gathered_until_s) for kind in kinds}
        try:
            await self._database.write(lambda connection: self._enter(connection, taken, now))
        except BaseException:
            for kind, uses in taken.items():
                uses.add_all(self._counted[kind])
                self._counted[kind] = uses
            raise
        self._left_in_minute -= len(kinds)

    def _enter(self, connection: sa.Connection, taken: dict[_Kind, Uses], now: str) -> None:
        entries = []
        for (action, key_id, _), uses in taken.items():
            # Of the instances that see a new key, one tells of it.
            if action == FIRST_USED and key_id != _OTHERS and not self._claim_first(connection, key_id, now):
                continue
            tenant_id = uses.tenants[0] if len(uses.tenants) == 1 and not uses.unnamed else ""
            entries.append(AuditEntry(now, key_id, action, tenant_id, key_id, None, uses.told()))
        store.append_all(connection, entries)
