"""Reading the caller's key from a request's headers (RFC 6750)."""

from collections.abc import Sequence

from tollhouse.errors import Unauthorized
from tollhouse.kit.headers import single_value

_EXPECTED = "expected a service key in the header Authorization: Bearer <key>"


def bearer_key(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the key that a request carries.

    Args:
        headers: as ASGI gives them, names in lower case.

    Raises:
        Unauthorized: there is none, it is not a bearer key, or there are several.
    """
    try:
        authorization = single_value(headers, b"authorization")
    except ValueError:
        raise Unauthorized(f"there are several Authorization headers; {_EXPECTED}, once") from None
    if authorization is None:
        raise Unauthorized(f"no key was sent; {_EXPECTED}")
    scheme, _, key = authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise Unauthorized(_EXPECTED)
    return key.decode("latin-1")
