"""Encryption of what a database keeps and must not reveal."""

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class Vault:
    """Seals by AES-256-GCM, a random nonce in front: the database alone is no use to whoever reads it.

    Args:
        key: 32 bytes, which are not in the database.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, content: bytes, owner: str) -> bytes:
        """Encrypt what belongs to an owner; for another one it does not open."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, owner.encode())

    def open(self, sealed: bytes, owner: str) -> bytes:
        """Decrypt; raises cryptography's InvalidTag where it was tampered with, or is another owner's or key's."""
        return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())
