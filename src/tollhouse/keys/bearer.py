"""Reading the caller's key from a request's headers: RFC 6750, or where a vendor's own client puts it."""

from collections.abc import Sequence
from urllib.parse import parse_qs

from tollhouse.errors import Unauthorized
from tollhouse.kit.headers import RepeatedHeader, single_value

_EXPECTED = "expected a service key in the header Authorization: Bearer <key>"


def bearer_key(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the key that a request carries.

    Args:
        headers: as ASGI gives them, names in lower case.

    Raises:
        Unauthorized: there is none, it is not a bearer key, or there are several.
    """
    try:
        return key_of(single_value(headers, b"authorization"))
    except RepeatedHeader:
        raise several_keys() from None


def several_keys() -> Unauthorized:
    """Return what a request with several ``Authorization`` headers is told."""
    return Unauthorized(f"there are several Authorization headers; {_EXPECTED}, once")


def key_of(authorization: bytes | None) -> str:
    """Return the key that an ``Authorization`` header carries; raises Unauthorized as ``bearer_key``."""
    if authorization is None:
        raise Unauthorized(f"no key was sent; {_EXPECTED}")
    scheme, _, key = authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise Unauthorized(_EXPECTED)
    return key.decode("latin-1")


_CLIENTS = (b"x-api-key", b"x-goog-api-key", b"api-key")


def client_key(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the key of a vendor's own client: a bearer key, or in the header of Anthropic, Google or Azure.

    Raises:
        Unauthorized: there is none, or there are several that differ.
    """
    try:
        given = [value for name in _CLIENTS if (value := single_value(headers, name)) is not None]
    except ValueError:
        raise Unauthorized(f"there are several keys; {_EXPECTED}, once") from None
    if not given:
        return bearer_key(headers)
    keys = {value.strip().decode("latin-1") for value in given}
    if any(name == b"authorization" for name, _ in headers):
        keys.add(bearer_key(headers))
    if len(keys) > 1:
        raise Unauthorized(f"there are several keys; {_EXPECTED}, once")
    key = keys.pop()
    if not key:
        raise Unauthorized(f"no key was sent; {_EXPECTED}")
    return key


def query_key(query: bytes) -> str | None:
    """Return the key in a query, where Google's clients may put it; None where there is none, or several."""
    keys = parse_qs(query.decode("latin-1")).get("key", [])
    return keys[0] if len(keys) == 1 else None
