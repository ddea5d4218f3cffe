"""Where a provider is, and through which proxy it is reached. Nothing here does I/O."""

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_PROXY_SEPARATORS = re.compile(r"[\s,]+")


class Address(msgspec.Struct, frozen=True):
    """Whom to connect to: scheme, host (IPv6 without brackets) and port."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def host_and_port(self) -> str:
        """``host:port`` as CONNECT wants it, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What a Host header says: the port only where it is not the scheme's own."""
        default_port = f":{_DEFAULT_PORTS[self.scheme]}"
        return self.host_and_port.removesuffix(default_port)


class BaseUrl(msgspec.Struct, frozen=True):
    """A provider's base_url, taken apart."""

    address: Address
    path: str
    """The prefix of every request's path: empty, or ``/…`` without a slash at the end."""
    query: str
    """What every request's query begins with (``api-version=2024-10-21``), or empty."""

    def target(self, path: str) -> str:
        """Return the path and query of a request: the prefix, then ``path``, then both queries."""
        path, _, query = path.partition("?")
        queries = "&".join(part for part in (query, self.query) if part)
        return f"{self.path}{path}" + (f"?{queries}" if queries else "")


class Proxy(msgspec.Struct, frozen=True):
    """A forward proxy."""

    address: Address
    authorization: str | None
    """The value of Proxy-Authorization, or None."""


def parse_base_url(text: str) -> BaseUrl:
    """Take a provider's base_url apart.

    Raises:
        ValueError: it is not an http(s) URL; the message says what is wrong, and never repeats the URL.
    """
    url, address = _split("base_url", text)
    if url.username is not None or url.password is not None:
        raise ValueError("base_url must not contain a user or password: the key belongs into api_key")
    if "#" in text:
        raise ValueError("base_url must not contain a fragment (#…)")
    return BaseUrl(address, url.path.rstrip("/"), url.query)


def parse_proxy_url(text: str) -> Proxy:
    """Take a proxy's URL apart: ``[http[s]://][user:password@]host[:port]``.

    Raises:
        ValueError: it is not of this form; the message never repeats the URL.
    """
    url, address = _split("the proxy's URL", text if "://" in text else f"http://{text}")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("the proxy's URL must end after the port")
    if url.username is None:
        return Proxy(address, None)
    credentials = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
    return Proxy(address, "Basic " + base64.b64encode(credentials).decode("ascii"))


def _split(what: str, text: str) -> tuple[SplitResult, Address]:
    expected = f"{what} must look like https://host[:port][/path]"
    if not _VISIBLE_ASCII.fullmatch(text):
        raise ValueError(f"{expected}, in ASCII and without spaces")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(f"{expected}: its host or port is malformed") from None
    if url.scheme not in {"http", "https"}:
        raise ValueError(f"{expected}: its scheme is not http or https")
    if not url.hostname or not _HOST.fullmatch(url.hostname):
        raise ValueError(f"{expected}: its host is missing or malformed")
    if port == 0:
        raise ValueError(f"{expected}: its port is 0")
    scheme: Literal["http", "https"] = "https" if url.scheme == "https" else "http"
    return url, Address(scheme, url.hostname, port or _DEFAULT_PORTS[scheme])


def proxy_from_environment(base_url: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy that the environment wants for a provider, or None for none.

    For https it is ``https_proxy`` or ``HTTPS_PROXY``, for http only ``http_proxy``: a CGI server fills
    ``HTTP_PROXY`` from a request's own Proxy header (CVE-2016-5385). Then ``all_proxy`` or ``ALL_PROXY``.
    The lower-case name wins, an empty value counts as none, and ``no_proxy`` or ``NO_PROXY`` lists the
    exceptions: ``*``, hosts (with all below them; a leading ``.`` or ``*.`` makes no difference), IP
    addresses and networks, each optionally with a port.

    Raises:
        ValueError: base_url is malformed.
    """
    address = parse_base_url(base_url).address
    own = ("http_proxy",) if address.scheme == "http" else ("https_proxy", "HTTPS_PROXY")
    proxy = _first(environ, *own, "all_proxy", "ALL_PROXY")
    exceptions = _NO_PROXY_SEPARATORS.split(_first(environ, "no_proxy", "NO_PROXY") or "")
    if proxy is None or any(_is_exception(address, entry) for entry in exceptions):
        return None
    return proxy


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name].strip() for name in names if environ.get(name, "").strip()), None)


def _is_exception(address: Address, entry: str) -> bool:
    if entry == "*":
        return True
    pattern, port = _without_port(entry.lower())
    if not pattern or port not in {"", str(address.port)}:
        return False
    host = address.host.rstrip(".")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        pattern = pattern.removeprefix("*").strip(".")
        return bool(pattern) and (host == pattern or host.endswith(f".{pattern}"))
    try:
        return ip in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _without_port(entry: str) -> tuple[str, str]:
    """Split ``host:port``; an IPv6 address has its port only behind brackets."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""
