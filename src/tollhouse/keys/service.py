"""Key → principal, from memory; and the making and revoking of keys."""

import hashlib
import hmac
import secrets
from pathlib import Path

from tollhouse.errors import StartError, Unauthorized
from tollhouse.keys import store
from tollhouse.keys.model import Principal, ServiceKey
from tollhouse.keys.pepper import create_pepper, read_pepper
from tollhouse.storage.database import Database

_PREFIX = "th_"
_KEY_BYTES = 32
_INDEX_BYTES = 16
_MAX_RECOGNISED = 100_000

_EXPECTED = "expected auth.pepper to be the first start's, or without auth.pepper the file that was made beside it"

ADMIN_KEY_ID = "admin"
"""How the configured admin key is named in ledger and audit log."""


class Keyring:
    """Every key that is in force, by its keyed digest.

    The digests are all in memory, so a wrong key costs no look into the database, and a revoked one is out with the
    next call.
    """

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper
        self._principals: dict[bytes, tuple[bytes, Principal]] = {}
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
            await self._database.write(lambda connection: store.set_pepper_fingerprint(connection, fingerprint))
        elif known != fingerprint:
            raise StartError("the pepper is not the one this database's service keys were made with; " + _EXPECTED)
        keys = await self._database.read(store.everything)
        for key in keys:
            if key.revoked_at is None:
                self.accept(key)

    def digest(self, api_key: str) -> bytes:
        """Return the digest under which a key is stored: HMAC-SHA-256 under the pepper."""
        return hmac.digest(self._pepper, api_key.encode(), hashlib.sha256)

    def identify(self, api_key: str) -> Principal:
        """Return who calls with a key; raises Unauthorized for one that is unknown or revoked.

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
            raise Unauthorized("this key is unknown or revoked; create one with `tollhouse key create`")
        return found[1]

    def trust(self, api_key: str, principal: Principal) -> None:
        """Accept a key that is not on record: the configured admin key, or this process's operator token."""
        self._add(self.digest(api_key), principal)

    def accept(self, key: ServiceKey) -> None:
        """Let a key that is on record call."""
        self._add(bytes.fromhex(key.digest), key.principal())

    def refuse(self, key: ServiceKey) -> None:
        """Stop accepting a key, at once."""
        self._principals.pop(bytes.fromhex(key.digest)[:_INDEX_BYTES], None)
        self._recognised.clear()

    def _add(self, digest: bytes, principal: Principal) -> None:
        self._principals[digest[:_INDEX_BYTES]] = (digest, principal)


def new_api_key() -> str:
    """Return a new key of 256 random bits, as text safe in headers and shells."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


async def open_keyring(database: Database, pepper: bytes | None, path: Path) -> Keyring:
    """Return the keyring of a database, its keys loaded.

    Args:
        pepper: the configured one; None takes the one kept at ``path``, made there at the first start.

    Raises:
        StartError: the pepper is missing, unreadable, or not the one that the database's keys were made with.
    """
    if pepper is None:
        pepper = read_pepper(path)
    if pepper is None:
        if await database.read(store.pepper_fingerprint) is not None:
            raise StartError(f"{path}: is missing, so no service key of this database would be known; {_EXPECTED}")
        pepper = create_pepper(path)
    keyring = Keyring(database, pepper)
    await keyring.load()
    return keyring
