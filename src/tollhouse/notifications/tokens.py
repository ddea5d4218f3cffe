"""Short-lived signed tokens, with which a browser follows one tenant's or user's events without holding a key.

A token holds what it grants and is kept nowhere: ``et_``, the grant as JSON in base64url, a dot, and the HMAC-SHA-256
of that text under a secret derived from the pepper, in base64url too. Every instance of a database accepts it.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec

from tollhouse.errors import Unauthorized
from tollhouse.keys.service import Keyring
from tollhouse.kit.clock import Clock
from tollhouse.notifications.grant import Grant

_PREFIX = "et_"
_MOST_CHARACTERS = 2048
_PURPOSE = b"event tokens"
_REFUSED = "this token is not valid here, or has expired; POST /events/token gives a new one"


class _Claims(msgspec.Struct, frozen=True, array_like=True):
    key_id: str
    tenant_id: str
    user_id: str | None
    expires_at_ms: int


_decoder = msgspec.json.Decoder(_Claims)


class EventTokens:
    """Makes tokens and reads them."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock
        self._secret = keyring.derive(_PURPOSE)

    def make(self, key_id: str, tenant_id: str, user_id: str | None, expires_at_ms: int) -> str:
        """Return a token for the events of a tenant, or of one user of it."""
        claims = _text(msgspec.json.encode(_Claims(key_id, tenant_id, user_id, expires_at_ms)))
        return f"{_PREFIX}{claims}.{_text(self._signature(claims))}"

    def read(self, token: str) -> Grant:
        """Return what a token grants; raises Unauthorized where it is none, has expired, or its key was revoked."""
        claims, dot, signature = token.removeprefix(_PREFIX).partition(".")
        if not token.startswith(_PREFIX) or not dot or len(token) > _MOST_CHARACTERS or not token.isascii():
            raise Unauthorized(_REFUSED)
        if not hmac.compare_digest(_text(self._signature(claims)), signature):
            raise Unauthorized(_REFUSED)
        try:
            read = _decoder.decode(_bytes(claims))
        except (msgspec.DecodeError, binascii.Error):
            # Signed here, and so by another version.
            raise Unauthorized(_REFUSED) from None
        grant = Grant(read.key_id, frozenset({read.tenant_id}), read.user_id, expires_at_ms=read.expires_at_ms)
        if not grant.holds(self._keyring, self._clock.now_ms()):
            raise Unauthorized(_REFUSED)
        return grant

    def _signature(self, claims: str) -> bytes:
        return hmac.digest(self._secret, claims.encode(), hashlib.sha256)


def is_token(text: str) -> bool:
    """Whether a text is meant as a token, rather than as a key."""
    return text.startswith(_PREFIX)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
