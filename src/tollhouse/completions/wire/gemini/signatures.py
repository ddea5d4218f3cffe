"""Another vendor's signatures on their way through Google's format, whose own are bytes in base64."""

import base64
import binascii

from tollhouse.providers.conversation import Thinking

# They tell what Tollhouse wrote from what Google's models signed, which means nothing to another vendor.
_SIGNATURE = b"tollhouse:signature:"
_REDACTED = b"tollhouse:redacted:"


def written_signature(signature: str) -> str:
    """Return a vendor's signature as a ``thoughtSignature``."""
    return base64.b64encode(_SIGNATURE + signature.encode("utf-8", "replace")).decode()


def written_redacted(redacted: str) -> str:
    """Return what stands for thinking that is not shown as a ``thoughtSignature``."""
    return base64.b64encode(_REDACTED + redacted.encode("utf-8", "replace")).decode()


def own_signature(thought_signature: str) -> str | None:
    """Return the signature in a ``thoughtSignature``; None where it is Google's."""
    return _after(_SIGNATURE, thought_signature)


def thinking(text: str, thought_signature: str | None) -> Thinking | None:
    """Return what a thought part stands for; None where Google's models made it."""
    if thought_signature is None:
        return Thinking(text)
    redacted = _after(_REDACTED, thought_signature)
    if redacted is not None:
        return Thinking("", redacted=redacted)
    signature = _after(_SIGNATURE, thought_signature)
    return None if signature is None else Thinking(text, signature=signature)


def _after(prefix: bytes, thought_signature: str) -> str | None:
    # SDKs that hold it as bytes write it again in the alphabet for URLs.
    padded = thought_signature.rstrip("=") + "=" * (-len(thought_signature.rstrip("=")) % 4)
    try:
        signed = base64.b64decode(padded.translate(_STANDARD), validate=True)
        return signed[len(prefix) :].decode() if signed.startswith(prefix) else None
    except (binascii.Error, ValueError):
        return None


_STANDARD = str.maketrans("-_", "+/")
