"""Another vendor's answers on their way through Google's format: their signatures, and calls that nobody signed.

Google's own signatures are bytes in base64, and it refuses what it has not signed. What Tollhouse writes in their place
is marked, so that it is told from Google's when it comes back: it goes to its maker again, and never to Google.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from tollhouse.providers.conversation import Thinking
from tollhouse.providers.gemini.generations import generation_of

UNSIGNED = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""Google's documented stand-in for the signature of a call that no Gemini made, "skip_thought_signature_validator" in
base64: from its third generation on, a call without any is refused."""

_SIGNATURE = b"tollhouse:signature:"
_REDACTED = b"tollhouse:redacted:"


def written_signature(signature: str) -> str:
    """Return a vendor's signature as a ``thoughtSignature``; "" for a call that nobody has signed."""
    return base64.b64encode(_SIGNATURE + signature.encode("utf-8", "replace")).decode()


def written_redacted(redacted: str) -> str:
    """Return what stands for thinking that is not shown as a ``thoughtSignature``."""
    return base64.b64encode(_REDACTED + redacted.encode("utf-8", "replace")).decode()


def own_signature(thought_signature: str) -> str | None:
    """Return the signature in a ``thoughtSignature``; None where it is Google's, or nobody's."""
    return _after(_SIGNATURE, thought_signature) or None


def thinking(text: str, thought_signature: str | None) -> Thinking | None:
    """Return what a thought part stands for; None where Google's models made it."""
    if thought_signature is None:
        return Thinking(text)
    redacted = _after(_REDACTED, thought_signature)
    if redacted is not None:
        return Thinking("", redacted=redacted)
    signature = _after(_SIGNATURE, thought_signature)
    return None if signature is None else Thinking(text, signature=signature)


def without_foreign(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a request without what is marked as another vendor's; the body itself is left as it is.

    Thoughts are left out, and a call keeps the signature that it came with, or gets Google's word for none.
    """
    contents = body.get("contents")
    if not isinstance(contents, list) or not any(map(_holds_foreign, contents)):
        return dict(body)
    kept = []
    for content in contents:
        if not _holds_foreign(content):
            kept.append(content)
        elif parts := [own for part in content["parts"] if (own := _own(part, model)) is not None]:
            kept.append({**content, "parts": parts})
    return {**body, "contents": kept}


def _holds_foreign(content: Any) -> bool:
    parts = content.get("parts") if isinstance(content, dict) else None
    return isinstance(parts, list) and any(_mark_of(part) is not None for part in parts)


def _mark_of(part: Any) -> tuple[str, str] | None:
    """Return the name of the field that holds a mark, and what it marks."""
    for name in ("thoughtSignature", "thought_signature"):
        signature = part.get(name) if isinstance(part, dict) else None
        if isinstance(signature, str):
            marked = _after(_SIGNATURE, signature)
            marked = _after(_REDACTED, signature) if marked is None else marked
            if marked is not None:
                return name, marked
    return None


def _own(part: Any, model: str) -> Any:
    """Return a part as Google takes it; None for one that it does not."""
    mark = _mark_of(part)
    if mark is None:
        return part
    name, signature = mark
    if "functionCall" not in part and "function_call" not in part:
        return None
    kept = {key: value for key, value in part.items() if key != name}
    if not signature and generation_of(model) >= 3:
        signature = UNSIGNED
    return {**kept, name: signature} if signature else kept


def _after(prefix: bytes, thought_signature: str) -> str | None:
    # SDKs that hold it as bytes write it again in the alphabet for URLs.
    padded = thought_signature.rstrip("=") + "=" * (-len(thought_signature.rstrip("=")) % 4)
    try:
        signed = base64.b64decode(padded.translate(_STANDARD), validate=True)
        return signed[len(prefix) :].decode() if signed.startswith(prefix) else None
    except (binascii.Error, ValueError):
        return None


_STANDARD = str.maketrans("-_", "+/")
