"""What a job asks and what came of it, encrypted while it is in the database.

A worker has to read both without the caller, so that the key is derived from the service's own pepper: a copy of the
database, without it, holds no prompts and no answers.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag

from tollhouse.errors import InternalError
from tollhouse.kit.sealing import Vault

SEAL_PURPOSE = b"tollhouse jobs: requests and results"
DIGEST_PURPOSE = b"tollhouse jobs: idempotency"


class Seal:
    """Encrypts what belongs to a job, which opens for no other."""

    def __init__(self, key: bytes) -> None:
        self._vault = Vault(key)

    def seal(self, job_id: str, content: bytes) -> bytes:
        return self._vault.seal(content, job_id)

    def open(self, job_id: str, sealed: bytes) -> bytes:
        """Return what was sealed; raises InternalError when the row was changed, or sealed under another pepper."""
        try:
            return self._vault.open(sealed, job_id)
        except InvalidTag:
            raise InternalError(
                f"what is kept of {job_id} cannot be read; expected the auth.pepper that it was written under"
            ) from None


def digest(key: bytes, *parts: str | bytes) -> str:
    """Return a keyed digest of texts, which are told apart whatever is in them; hex."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    message = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
    return hmac.digest(key, message, hashlib.sha256).hex()
