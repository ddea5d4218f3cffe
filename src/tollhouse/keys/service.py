"""Key → principal, from memory; and the making and revoking of keys."""

import hashlib
import hmac
import secrets
from collections.abc import Callable

from tollhouse.errors import KeyRevoked, StartError, Unauthorized
from tollhouse.keys import store
from tollhouse.keys.model import Principal, ServiceKey
from tollhouse.keys.pepper import Pepper
from tollhouse.storage.database import Database

_PREFIX = "th_"
_KEY_BYTES = 32
_INDEX_BYTES = 16
_MAX_RECOGNISED = 100_000

_EXPECTED = "expected auth.pepper to be the first start's, or without auth.pepper what was made and kept then"

ADMIN_KEY_ID = "admin"
"""How the configured admin key is named in ledger and audit log."""

_UNKNOWN = "this key is unknown or revoked; create one with `tollhouse key create`"

_Change = tuple[Callable[[ServiceKey], None], ServiceKey]


class Keyring:
    """Every key that is in force, by its keyed digest.

    The digests are all in memory, so a wrong key costs no look into the database, and a revoked one is out with the
    next call.

    Attributes:
        when_first_used: told a key's id when one that was never used is; it marks the key with ``store.mark_used``.
    """

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper
        self._principals: dict[bytes, tuple[bytes, Principal]] = {}
        self._revoked: dict[bytes, tuple[bytes, str]] = {}
        self._unused: set[str] = set()
        self._in_force: set[str] = set()
        self.when_first_used: Callable[[str], None] = lambda _: None
        self._trusted: dict[bytes, tuple[bytes, Principal]] = {}
        self._meanwhile: list[_Change] = []
        self._process_key = secrets.token_bytes(_KEY_BYTES)
        self._recognised: dict[bytes, Principal] = {}

    async def load(self) -> None:
        """Read the keys in force.

        Raises:
            StartError: the database's keys were made with another pepper.
        """
        fingerprint = hmac.digest(self._pepper, b"tollhouse pepper fingerprint", hashlib.sha256).hex()
        known = await self._database.read(store.pepper_fingerprint)
        if known is None:
            known = await self._database.write(lambda connection: store.set_pepper_fingerprint(connection, fingerprint))
        if known != fingerprint:
            raise StartError("the pepper is not the one this database's service keys were made with; " + _EXPECTED)
        await self.refresh()

    async def refresh(self) -> None:
        """Read the keys in force anew, after they were changed here or by another instance; raises Unavailable."""
        # What is accepted or refused meanwhile may be newer than what is being read.
        meanwhile: list[_Change] = []
        self._meanwhile = meanwhile
        keys = await self._database.read(store.everything)
        self._principals = dict(self._trusted)
        self._revoked, self._unused = {}, set()
        self._in_force = {principal.key_id for _, principal in self._trusted.values()}
        for key in keys:
            if key.revoked_at is None:
                self._put(key)
            else:
                self._note_revoked(key)
        for put_or_drop, key in meanwhile:
            put_or_drop(key)
        self._recognised.clear()

    def digest(self, api_key: str) -> bytes:
        """Return the digest under which a key is stored: HMAC-SHA-256 under the pepper."""
        return hmac.digest(self._pepper, api_key.encode(), hashlib.sha256)

    def derive(self, purpose: bytes) -> bytes:
        """Return a secret of this database for another purpose, which reveals nothing of its keys."""
        return hmac.digest(self._pepper, b"tollhouse " + purpose, hashlib.sha256)

    def is_in_force(self, key_id: str) -> bool:
        """Whether a key of that id would be accepted now."""
        return key_id in self._in_force

    def identify(self, api_key: str) -> Principal:
        """Return who calls with a key; raises Unauthorized for one that is unknown, and KeyRevoked.

        A key is found by a part of its digest and then compared as a whole in constant time: the time taken tells
        nothing. One that called before is recognised by a mark that is cheaper to make than an HMAC, under a key of
        this process alone.
        """
        mark = hashlib.blake2b(api_key.encode(), key=self._process_key, digest_size=_INDEX_BYTES).digest()
        principal = self._recognised.get(mark)
        if principal is None:
            principal = self._look_up(api_key)
            if len(self._recognised) >= _MAX_RECOGNISED:
                self._recognised.clear()
            self._recognised[mark] = principal
        return principal

    def _look_up(self, api_key: str) -> Principal:
        digest = self.digest(api_key)
        found = self._principals.get(digest[:_INDEX_BYTES])
        if found is None or not hmac.compare_digest(found[0], digest):
            revoked = self._revoked.get(digest[:_INDEX_BYTES])
            if revoked is not None and hmac.compare_digest(revoked[0], digest):
                raise KeyRevoked(_UNKNOWN, key_id=revoked[1])
            raise Unauthorized(_UNKNOWN)
        principal = found[1]
        if principal.key_id in self._unused:
            self._unused.discard(principal.key_id)
            self.when_first_used(principal.key_id)
        return principal

    def trust(self, api_key: str, principal: Principal) -> None:
        """Accept a key that is not on record: the configured admin key, or this process's operator token."""
        digest = self.digest(api_key)
        self._trusted[digest[:_INDEX_BYTES]] = (digest, principal)
        self._principals[digest[:_INDEX_BYTES]] = (digest, principal)
        self._in_force.add(principal.key_id)

    def accept(self, key: ServiceKey) -> None:
        """Let a key that is on record call."""
        self._meanwhile.append((self._put, key))
        self._put(key)

    def refuse(self, key: ServiceKey) -> None:
        """Stop accepting a key, at once."""
        self._meanwhile.append((self._drop, key))
        self._drop(key)

    def _put(self, key: ServiceKey) -> None:
        digest = bytes.fromhex(key.digest)
        self._principals[digest[:_INDEX_BYTES]] = (digest, key.principal())
        self._in_force.add(key.key_id)
        if key.first_used_at is None:
            self._unused.add(key.key_id)

    def _drop(self, key: ServiceKey) -> None:
        self._principals.pop(bytes.fromhex(key.digest)[:_INDEX_BYTES], None)
        self._in_force.discard(key.key_id)
        self._note_revoked(key)
        self._recognised.clear()

    def _note_revoked(self, key: ServiceKey) -> None:
        digest = bytes.fromhex(key.digest)
        self._revoked[digest[:_INDEX_BYTES]] = (digest, key.key_id)


def new_api_key() -> str:
    """Return a new key of 256 random bits, as text safe in headers and shells."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


async def open_keyring(database: Database, configured: bytes | None, kept: Pepper) -> Keyring:
    """Return the keyring of a database, its keys loaded.

    Args:
        configured: the pepper of the configuration; None takes the kept one, made at the first start.

    Raises:
        StartError: the pepper is missing, unreadable, or not the one that the database's keys were made with.
        Unavailable: the database cannot be used.
    """
    # Looked at first: of instances that start together, another may make the pepper, and then its fingerprint, between.
    was_in_use = await database.read(store.pepper_fingerprint) is not None
    pepper = configured if configured is not None else await kept.read()
    if pepper is None:
        if was_in_use:
            raise StartError(
                f"{kept.where}: is missing, so no service key of this database would be known; {_EXPECTED}"
            )
        pepper = await kept.create()
    keyring = Keyring(database, pepper)
    await keyring.load()
    return keyring
