"""Signatures as of Standard Webhooks (https://www.standardwebhooks.com), and the secrets that make them."""

import base64
import hashlib
import hmac
import secrets

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> bytes:
    """Return a new secret of 256 random bits."""
    return secrets.token_bytes(_SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """Return a secret as receivers' libraries take it."""
    return _PREFIX + base64.b64encode(secret).decode()


def signed_headers(secret_list: list[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove where a message comes from.

    Args:
        secret_list: those in force; a receiver that knows any one of them is satisfied.
        message_id: the same for every try of an event, by which receivers know one that they have had.
        timestamp_s: when this try is made, by which receivers know an old one that somebody repeats.
    """
    content = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    signatures = [base64.b64encode(hmac.digest(each, content, hashlib.sha256)).decode() for each in secret_list]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
