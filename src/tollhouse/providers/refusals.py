"""What an answer other than a completion means: refused for free, or perhaps billed, and whose fault it is.

| answer | outcome |
|---|---|
| 401, 402, 403, 404, 405, 407, 410, any redirect | Overloaded: the operator's key, account, model or address is wrong |
| 409, 425, 429, 5xx | Overloaded |
| 502, 504, 520, 524 without the vendor's error object | OutcomeUnknown: an intermediary answered in its place |
| 408 | OutcomeUnknown: Azure charges for calls that it breaks off so |
| any other 4xx | Rejected, with the provider's reason |
| any other status | OutcomeUnknown |

A wrong key is not the caller's fault and another candidate may succeed, hence Overloaded. What a provider writes
about keys, accounts and quotas names them (OpenAI's 401 repeats part of the key, its 429 the organisation), so only
the reason of a Rejected is passed on.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, Overloaded, ProviderError, Rejected, WireResponse
from tollhouse.providers.parsing import UNREADABLE

_OPERATORS = {
    401: "does not accept the key that this service's operator configured",
    402: "has no funds left in the account of this service's operator",
    403: "does not permit this to the key that this service's operator configured",
    404: "does not know the model or the address that this service's operator configured",
    405: "does not take calls at the address that this service's operator configured",
    407: "is behind a proxy that does not accept what this service's operator configured",
    410: "no longer offers the model or the address that this service's operator configured",
}
_OPERATORS_OTHERWISE = "does not accept the account or the address that this service's operator configured"
_BUSY = frozenset({409, 425, 429})
# 520 and 524 are Cloudflare's, which stands before OpenAI and Anthropic: the origin broke off, or took too long.
_PERHAPS_PROCESSED = frozenset({502, 504, 520, 524})

_REASON_LENGTH = 500
_LONGEST_WAIT_S = 86_400.0
_SHORTEST_SECRET = 8  # Shorter ones are placeholders of local servers, and may be words of the reason.
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?", re.ASCII)
_CODE = re.compile(r"[A-Za-z_]{1,40}")


class VendorError(msgspec.Struct, frozen=True):
    """A provider's own error object."""

    message: str
    codes: tuple[str, ...]
    """Its machine-readable words: OpenAI's and Anthropic's type and code, Google's status and reasons."""
    retry_after_s: float | None
    """Google's RetryInfo; the others say it in a header."""


def failure(
    response: WireResponse, *, secret: str, is_operators: Callable[[VendorError], bool] | None = None
) -> ProviderError:
    """Return the outcome that an answer with another status than 200 stands for, ready to be raised.

    Args:
        response: the answer.
        secret: the key the call was made with, which is taken out of any reason passed on.
        is_operators: recognises errors of the operator's account that this vendor sends under the caller's statuses.
    """
    status = response.status
    if not 300 <= status < 600 or status == 408:
        return OutcomeUnknown(f"the provider broke the call off, and may bill it (HTTP {status})")
    error = vendor_error(response.body)
    if error is None and status in _PERHAPS_PROCESSED:
        return OutcomeUnknown(f"the provider did not answer in time, and may bill the call (HTTP {status})")
    operators = is_operators is not None and error is not None and is_operators(error)
    if operators or status < 400 or status in _OPERATORS:
        fault = _OPERATORS.get(status, _OPERATORS_OTHERWISE)
        return Overloaded(f"the provider {fault} (HTTP {status})", status=status)
    if status in _BUSY or status >= 500:
        return overloaded(response, error)
    reason = _reason(error, secret)
    return Rejected(f"the provider refused the request (HTTP {status}): {reason}", status=status)


def overloaded(response: WireResponse, error: VendorError | None) -> Overloaded:
    """Return the outcome of a provider that cannot take the call now, with the time after which it may."""
    words = (code for code in error.codes if _CODE.fullmatch(code)) if error else ()
    what = ", ".join([f"HTTP {response.status}", *words])
    wait_s = retry_after_s(response.headers)
    if wait_s is None and error is not None:
        wait_s = error.retry_after_s
    return Overloaded(f"the provider cannot take the call now ({what})", status=response.status, retry_after_s=wait_s)


def vendor_error(body: bytes) -> VendorError | None:
    """Return the error object that a provider itself wrote; None for an intermediary's page or an empty body.

    Understood are ``{"error": {…}}`` (OpenAI, Anthropic, DeepSeek, Google, also as the only item of a list),
    ``{"error": "…"}`` (Ollama) and ``{"object": "error", …}`` (older vLLM).
    """
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return None
    error = document if document.get("object") == "error" else document.get("error")
    if isinstance(error, str):
        return VendorError(message=error, codes=(), retry_after_s=None)
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    details = [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    words = [error.get("type"), error.get("code"), error.get("status"), *(d.get("reason") for d in details)]
    message = error.get("message")
    return VendorError(
        message=message if isinstance(message, str) else "",
        codes=tuple(dict.fromkeys(word for word in words if isinstance(word, str))),
        retry_after_s=next((s for s in map(_google_delay_s, details) if s is not None), None),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a provider allows another try, at most a day; None where it does not say.

    Read from ``retry-after-ms`` (OpenAI) or ``retry-after`` (seconds, or a date: RFC 9110, 10.2.3). A date is taken
    relative to the answer's own ``date``, so that neither this machine's clock nor the provider's has to be right.
    """
    text = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(text):
        return min(float(text) / 1000, _LONGEST_WAIT_S)
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return min(float(text), _LONGEST_WAIT_S)
    until, now = _http_date(text), _http_date(headers.get("date", ""))
    if until is None or now is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), _LONGEST_WAIT_S)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        # The standard library's date parser raises each of these on one malformed date or another.
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _google_delay_s(detail: dict[str, Any]) -> float | None:
    delay = detail.get("retryDelay")
    if isinstance(delay, str) and delay.endswith("s") and _NUMBER.fullmatch(delay[:-1]):
        return min(float(delay[:-1]), _LONGEST_WAIT_S)
    return None


def _reason(error: VendorError | None, secret: str) -> str:
    text = error.message if error else ""
    if len(secret) >= _SHORTEST_SECRET:
        text = text.replace(secret, "[key]")
    # What does not print is taken out: it could forge lines of a log or of a terminal.
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * _REASON_LENGTH])
    text = " ".join(text.split())
    if len(text) > _REASON_LENGTH:
        text = text[: _REASON_LENGTH - 1] + "…"
    return text or "it gave no reason"
