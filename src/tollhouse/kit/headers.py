"""Reading a request's headers where a repeated one must not be guessed at."""

from collections.abc import Sequence


class RepeatedHeader(ValueError):
    """A header that has to be given once was given several times.

    Attributes:
        name: in lower case.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was sent more than once")
        self.name = name


def single_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of a header, or None if it was not sent.

    Args:
        headers: as ASGI gives them, names in lower case.
        name: in lower case.

    Raises:
        RepeatedHeader: it was sent more than once.
    """
    return single_values(headers, (name,))[0]


def single_values(headers: Sequence[tuple[bytes, bytes]], names: Sequence[bytes]) -> list[bytes | None]:
    """Return the values of several headers; as ``single_value`` of each, at little more than the cost of one.

    Raises:
        RepeatedHeader: one was sent more than once.
    """
    fields = dict(headers)
    if len(fields) < len(headers):
        for name in names:
            if sum(sent == name for sent, _ in headers) > 1:
                raise RepeatedHeader(name.decode())
    return [fields.get(name) for name in names]
