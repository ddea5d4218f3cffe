"""Reading a request's headers where a repeated one must not be guessed at."""

from collections.abc import Sequence


def single_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of a header, or None if it was not sent.

    Args:
        headers: as ASGI gives them, names in lower case.
        name: in lower case.

    Raises:
        ValueError: it was sent more than once.
    """
    fields = dict(headers)
    if len(fields) < len(headers) and sum(sent == name for sent, _ in headers) > 1:
        raise ValueError(f"{name.decode()} was sent more than once")
    return fields.get(name)
