"""The rules that configured values have to keep, each with the words that complete the sentence "expected …"."""

import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from urllib.parse import urlsplit

from msgspec import Meta

SQLITE_SCHEME = "sqlite:///"
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_SMALLEST_USD = Decimal("1e-9")
SMALLEST_USD_FOR_1000 = Decimal("1e-6")


def whole(least: int, most: int) -> Meta:
    """Bound a whole number."""
    return Meta(ge=least, le=most, description=f"a whole number from {least} to {most}")


def seconds(most: int) -> Meta:
    """Bound a length of time."""
    return Meta(gt=0, le=most, description=f"a number of seconds above 0 and at most {most}")


def usd(most: int, smallest: Decimal = _SMALLEST_USD) -> Meta:
    """Bound an amount of money, and how finely it may be given."""

    def accepts(amount: Decimal) -> bool:
        # The range is checked first: it refuses NaN and infinity, and quantize() fails on huge amounts.
        return amount.is_finite() and 0 <= amount <= most and amount == amount.quantize(smallest)

    places = -smallest.adjusted()
    return accepting(accepts, f"an amount in USD from 0 to {most} with at most {places} decimal places")


def accepting(accepts: Callable[..., bool], description: str) -> Meta:
    """Demand what bounds alone cannot say; ``description`` completes "expected …"."""
    return Meta(description=description, extra={"accepts": accepts})


def is_name(text: str) -> bool:
    """Whether a text can name something."""
    return 0 < len(text) <= 128 and text.isprintable() and text == text.strip()


def is_plain_text(text: str) -> bool:
    """Whether a text is printable ASCII without spaces."""
    return text != "" and text.isascii() and text.isprintable() and " " not in text


def is_base_url(text: str) -> bool:
    """Whether a text is the address of an HTTP API."""
    # Checked before parsing, because urlsplit() silently drops tabs and line ends.
    if not is_plain_text(text):
        return False
    try:
        parts = urlsplit(text)
        port_is_usable = parts.port != 0
    except ValueError:
        return False
    has_host_only = bool(parts.hostname and _HOST.fullmatch(parts.hostname)) and "@" not in parts.netloc
    return parts.scheme in {"http", "https"} and has_host_only and port_is_usable and "#" not in text


def is_origin(text: str) -> bool:
    """Whether a text is the origin of a web page: scheme, host and port, as browsers send it."""
    return is_base_url(text) and text.count("/") == 2 and text == text.lower() and "?" not in text


def is_database_url(text: str) -> bool:
    """Whether a text is the address of a database that lasts."""
    if not text.isprintable():
        return False
    if text.startswith("postgresql://"):
        return len(text) > len("postgresql://")
    # A ledger in memory would be lost with the process, so ":memory:" is no database here.
    file = text.removeprefix(SQLITE_SCHEME)
    return text.startswith(SQLITE_SCHEME) and file not in {"", ":memory:"} and "?" not in file


# What a gateway's configuration file holds must not be able to end a value there and begin a directive.
_HOST_PORT = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", re.ASCII
)
SERVER_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9._/+@=:,-]{0,1023}", re.ASCII)


SERVER_NAMES = "a list of host names, *. in front for all below, each once"
PATHS = "an absolute path of letters, digits and . _ / + @ = : , -"


def is_path(text: str) -> bool:
    """Whether a text is an absolute path that means nothing but itself in any configuration."""
    return _PATH.fullmatch(text) is not None


def is_host_port(text: str) -> bool:
    """Whether a text is ``host:port`` or ``[IPv6]:port``, and nothing that could be taken for more."""
    match = _HOST_PORT.fullmatch(text)
    return (
        match is not None
        and 0 < int(match[1]) <= 65_535
        and (text[0] != "[" or is_network(text[1:].split("]", maxsplit=1)[0]))
    )


def is_host_name(text: str) -> bool:
    """Whether a text is a host name, and no pattern for several."""
    return SERVER_NAME.fullmatch(text) is not None and text[0] != "*"


def is_feature_upstream(text: str) -> bool:
    """Whether a text is ``slug=host:port``."""
    slug, _, upstream = text.rpartition("=")
    return is_name(slug) and is_host_port(upstream)


def is_network(text: str) -> bool:
    """Whether a text is an IP network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def each(accepts: Callable[[str], bool]) -> Callable[[tuple[str, ...]], bool]:
    """Demand something of every text of a list, and that none comes twice."""
    return lambda texts: len(set(texts)) == len(texts) and all(map(accepts, texts))
