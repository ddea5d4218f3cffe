"""Claims on idempotency keys, and the sealing of answers.

Everything is derived from the caller's API key and its Idempotency-Key, which the database does not hold: a row
reveals neither the keys, nor the request's body, nor the answer.
"""

import hashlib
import hmac

import msgspec

from tollhouse.kit.sealing import Vault


class Claim(msgspec.Struct, frozen=True):
    """One caller's use of one idempotency key.

    Attributes:
        claim_id: names the key's row; hex.
        body_digest: a keyed digest of the request, to tell another body under the same key; hex.
        expires_at: when the answer is forgotten; ISO 8601 in UTC.
        answer_key: the AES-256 key of the sealed answer. It stays in memory.
    """

    claim_id: str
    body_digest: str
    expires_at: str
    answer_key: bytes

    def __repr__(self) -> str:
        return f"Claim({self.claim_id[:8]}…)"

    def seal(self, answer: bytes) -> bytes:
        """Encrypt an answer under the caller's derived key."""
        return Vault(self.answer_key).seal(answer, self.claim_id)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt a sealed answer; raises cryptography's InvalidTag when the row was tampered with."""
        return Vault(self.answer_key).open(sealed, self.claim_id)


def claim(api_key: str, idempotency_key: str, canonical_body: bytes, expires_at: str) -> Claim:
    """Derive a caller's claim with HMAC-SHA-256 (RFC 2104), one purpose a label."""
    secret = _derive(api_key.encode(), b"tollhouse idempotency\0" + idempotency_key.encode())
    return Claim(
        claim_id=_derive(secret, b"claim id").hex(),
        body_digest=_derive(secret, b"body\0" + canonical_body).hex(),
        expires_at=expires_at,
        answer_key=_derive(secret, b"answer key"),
    )


def _derive(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


class Kept(msgspec.Struct, frozen=True):
    """What is on record for a claim: an answer, or None while the first call is still being answered.

    ``is_lost``: it was not answered and never will be, but it may have been billed.
    """

    body_digest: str
    request_id: str
    sealed_answer: bytes | None
    expires_at: str
    is_lost: bool = False


class FreeClaim(msgspec.Struct, frozen=True):
    """The operation that frees the claim of a request that brought no answer."""

    claim: Claim
    request_id: str
