"""What a job asks and what came of it, encrypted while it is in the database.

A worker has to read both without the caller, so that the key is derived from the service's own pepper: a copy of the
database, without it, holds no prompts and no answers.
"""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tollhouse.errors import InternalError

_NONCE_BYTES = 12
SEAL_PURPOSE = b"tollhouse jobs: requests and results"
DIGEST_PURPOSE = b"tollhouse jobs: idempotency"


class Seal:
    """Encrypts by AES-256-GCM, a random nonce in front; what belongs to one job opens for no other."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, job_id: str, content: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, job_id.encode())

    def open(self, job_id: str, sealed: bytes) -> bytes:
        """Return what was sealed; raises InternalError when the row was changed, or sealed under another pepper."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], job_id.encode())
        except InvalidTag:
            raise InternalError(
                f"what is kept of {job_id} cannot be read; expected the auth.pepper that it was written under"
            ) from None


def digest(key: bytes, *parts: str | bytes) -> str:
    """Return a keyed digest of texts, which are told apart whatever is in them; hex."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    message = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
    return hmac.digest(key, message, hashlib.sha256).hex()
