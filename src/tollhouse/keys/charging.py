"""On whose account a worker calls.

A worker makes the calls of jobs with a key of its own. Who asked for a job may have another key, with a cap, limits and
a name in the ledger: the call has to count as that key's. The worker says so in a header that it signs under a secret
of the database, for this one call: no other caller can have its calls counted as somebody else's.
"""

import hashlib
import hmac

import msgspec

from tollhouse.errors import Forbidden
from tollhouse.keys.model import Principal

CHARGED_KEY_HEADER = "X-Charged-Key"
SECRET_PURPOSE = b"keys: calls on the account of others"

_MAC_HEX = 64


class _Account(msgspec.Struct, frozen=True, array_like=True):
    key_id: str
    service: str


_decode = msgspec.json.Decoder(_Account).decode
_encode = msgspec.json.Encoder().encode


class Accounts:
    """Signs and checks on whose account a call is made.

    Args:
        secret: both sides derive it from the pepper.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, key_id: str, service: str, idempotency_key: str) -> str:
        """Return the header's value for the call under an Idempotency-Key, and its repetitions."""
        account = _encode(_Account(key_id, service))
        return f"{self._mac(account, idempotency_key)}{account.hex()}"

    def charged(self, caller: Principal, signed: bytes, idempotency_key: str | None) -> Principal:
        """Return the caller, with the key and the service on whose account the call is made.

        What the caller may do, it may do by its own key.

        Raises:
            Forbidden: it was not signed for this call.
        """
        try:
            text = signed.decode("ascii")
            mac, account = text[:_MAC_HEX], bytes.fromhex(text[_MAC_HEX:])
            is_signed = hmac.compare_digest(mac, self._mac(account, idempotency_key or ""))
            asked_by = _decode(account) if is_signed else None
        except ValueError:
            asked_by = None
        if asked_by is None:
            raise Forbidden(f"{CHARGED_KEY_HEADER}: is not signed for this call; only workers send it, leave it out")
        return msgspec.structs.replace(caller, key_id=asked_by.key_id, service=asked_by.service)

    def _mac(self, account: bytes, idempotency_key: str) -> str:
        message = len(account).to_bytes(4, "big") + account + idempotency_key.encode()
        return hmac.digest(self._secret, message, hashlib.sha256).hex()
