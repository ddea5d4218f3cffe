"""How a client is set up: what is given, else the environment, else what suits most services."""

import math
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from ssl import SSLContext

_MAX_API_KEY = 1024


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected seconds above 0, found {value}")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and when a call is tried again, all within its deadline.

    Attributes:
        max_tries: how often it is sent at most; 1 never repeats. Waiting for an answer that is on its way under the
            same idempotency key (409) does not count.
        first_pause_s: the pause before the second try; it doubles from try to try, and is shortened at random by up to
            a half, so that those hit by one outage do not return together.
        longest_pause_s: what it grows to. A ``Retry-After`` of the server's is always kept.
    """

    max_tries: int = 4
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_tries < 1:
            raise ValueError(f"max_tries: expected 1 or more, found {self.max_tries}")
        _positive("first_pause_s", self.first_pause_s)
        _positive("longest_pause_s", self.longest_pause_s)


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When calls are refused at once, because the service cannot be reached.

    Attributes:
        failures: so many in a row open the circuit: connections that cannot be made or break, timeouts, errors of a
            gateway. Whatever Tollhouse itself answers, 503 too, shows that it is there.
        open_s: so long nothing is sent; then one call probes the service.
    """

    failures: int = 5
    open_s: float = 10.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"failures: expected 1 or more, found {self.failures}")
        _positive("open_s", self.open_s)


class ClientOptions(TypedDict, total=False):
    """What may be given to a client by name; ``Settings`` says what each is."""

    tenant_id: int | str | None
    feature_slug: str | None
    timeout_s: float
    connect_timeout_s: float
    stream_pause_timeout_s: float
    stream_timeout_s: float
    retry: RetryPolicy
    breaker: BreakerPolicy | None
    max_connections: int
    idle_timeout_s: float
    max_answer_bytes: int
    ca_file: str | None
    ssl_context: "SSLContext | None"
    clock: Callable[[], float]
    uniform: Callable[[float, float], float]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A client's settings.

    Attributes:
        tenant_id: whom calls are for that name no tenant.
        feature_slug: what calls are for that name no feature.
        timeout_s: how long a call may take, all its tries together; Tollhouse gets it as the call's ``timeout_s``. Of
            a stream, until its first event.
        connect_timeout_s: how long it may take to connect, on each try.
        stream_pause_timeout_s: the longest silence within a stream; Tollhouse breaks it every 15 seconds.
        stream_timeout_s: how long a stream may take in all, from its first event on.
        breaker: None for no circuit breaker.
        max_connections: how many calls are under way at once; further ones wait their turn, within their timeout.
        idle_timeout_s: a connection that was idle for longer is not used again.
        max_answer_bytes: an answer that is longer is not read.
        ca_file: a PEM file with the certificates of authorities to trust instead of the system's.
        ssl_context: in place of the usual one, for instance with a certificate of the client's own.
        clock: tells the seconds of a monotonic clock.
        uniform: returns a random number between two.
    """

    url: str
    api_key: str
    tenant_id: int | str | None = None
    feature_slug: str | None = None
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    stream_pause_timeout_s: float = 60.0
    stream_timeout_s: float = 900.0
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy | None = BreakerPolicy()
    max_connections: int = 100
    idle_timeout_s: float = 20.0
    max_answer_bytes: int = 64 * 1024 * 1024
    ca_file: str | None = None
    ssl_context: "SSLContext | None" = None
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_timeout_s", "stream_pause_timeout_s", "stream_timeout_s", "idle_timeout_s"):
            _positive(name, getattr(self, name))
        for name in ("max_connections", "max_answer_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        if not 0 < len(self.api_key) <= _MAX_API_KEY or not self.api_key.isascii() or not _is_one_word(self.api_key):
            raise ValueError("api_key: expected printable ASCII characters without spaces")
        if self.ca_file is not None and self.ssl_context is not None:
            raise ValueError("ca_file: has no effect beside an ssl_context")
        _ = self.origin

    @property
    def origin(self) -> "Origin":
        return _origin(self.url)


class Origin(msgspec.Struct, frozen=True):
    """Where the service is.

    Attributes:
        authority: host and port as the ``Host`` header has them.
        prefix: the path under which a gateway serves it, without a slash at the end.
    """

    is_tls: bool
    host: str
    port: int
    authority: str
    prefix: str


def settings(url: str | None, api_key: str | None, options: ClientOptions) -> Settings:
    """Return a client's settings; raises ValueError or TypeError for what cannot be meant."""
    url = url or os.environ.get("TOLLHOUSE_URL")
    api_key = api_key or os.environ.get("TOLLHOUSE_API_KEY")
    if not url:
        raise ValueError("url: is required, here or in TOLLHOUSE_URL, such as http://tollhouse:8080")
    if not api_key:
        raise ValueError("api_key: is required, here or in TOLLHOUSE_API_KEY")
    return Settings(url=url, api_key=api_key, **options)


def _origin(url: str) -> Origin:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or not url.isascii() or not _is_one_word(url):
        raise ValueError("url: expected such as http://tollhouse:8080 or https://ai.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("url: expected no user, query or fragment in it; the key goes into api_key")
    is_tls = parts.scheme == "https"
    usual = 443 if is_tls else 80
    named = f"[{host}]" if ":" in host else host
    authority = named if port in {None, usual} else f"{named}:{port}"
    return Origin(is_tls, host, port or usual, authority, parts.path.rstrip("/"))


def _is_one_word(text: str) -> bool:
    return text.isprintable() and " " not in text
