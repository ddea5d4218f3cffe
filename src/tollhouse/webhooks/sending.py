"""Sending one message to one URL: once, without following anything."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

from tollhouse import __version__
from tollhouse.kit.clock import Clock, epoch_ms
from tollhouse.providers.address import Address
from tollhouse.providers.base import ProviderError, WireResponse
from tollhouse.providers.dial import default_tls
from tollhouse.providers.http1 import Connection
from tollhouse.webhooks.destination import Destination, IpAddress, Network, Refused, parse_destination, pinned
from tollhouse.webhooks.model import Result

# Nothing is done with it, but a receiver that answers with a page has received all the same.
_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 32 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Sender:
    """Sends messages.

    Args:
        allowed: networks to which one may go although they are not public.
        timeout_s: for name, connection and answer together.
        tls: how receivers' certificates are verified; by default with the system's roots.
    """

    def __init__(
        self, clock: Clock, allowed: Sequence[Network], *, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._clock = clock
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._tls = tls

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Result:
        """Send, and return what came of it; it raises nothing of what may go wrong on the way."""
        try:
            destination = parse_destination(url)
            async with asyncio.timeout(self._timeout_s):
                response = await self._exchange(destination, headers, body)
        except TimeoutError:
            return Result(None, f"no answer within {self._timeout_s:g} seconds")
        except (Refused, ValueError) as error:
            return Result(None, str(error))
        except (OSError, UnicodeError, ProviderError) as error:
            return Result(None, f"no connection, or no sound answer: {error}")
        return self._result(response)

    async def _exchange(self, destination: Destination, headers: Mapping[str, str], body: bytes) -> WireResponse:
        address = destination.address
        permitted = await pinned(address, self._allowed)
        tls = (self._tls or default_tls()) if address.scheme == "https" else None
        loop = asyncio.get_running_loop()
        connection = Connection(address.host, _MAX_ANSWER_BYTES, _MAX_HEADER_BYTES, lambda _: None)
        try:
            await _connect(connection, permitted, address, tls)
            answer = await connection.send(
                _request(destination, headers, body), loop.time() + self._timeout_s, first_byte_timeout_s=None
            )
        finally:
            connection.close()
        assert isinstance(answer, WireResponse), "it is not passed on as it comes"
        return answer

    def _result(self, response: WireResponse) -> Result:
        if 200 <= response.status < 300:
            return Result(response.status, "")
        problem = f"HTTP {response.status}"
        if response.status in _REDIRECTS:
            problem += ": redirects are not followed"
        return Result(response.status, problem, self._seconds(response.headers.get("retry-after")))

    def _seconds(self, text: str | None) -> float | None:
        """Return the seconds of a Retry-After; None where it says nothing that can be read."""
        if text is None:
            return None
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            return max(0.0, (epoch_ms(parsedate_to_datetime(text)) - self._clock.now_ms()) / 1000)
        except (ValueError, TypeError, IndexError, OverflowError):
            # The standard library's date parser raises each of these on one malformed date or another.
            return None


async def _connect(
    connection: Connection, permitted: Sequence[IpAddress], address: Address, tls: ssl.SSLContext | None
) -> None:
    """Connect to the first of some addresses that can be reached; raises OSError where none can."""
    loop = asyncio.get_running_loop()
    name = address.host if tls else None
    failure = OSError("it has no address")
    for to in permitted:
        try:
            await loop.create_connection(lambda: connection, str(to), address.port, ssl=tls, server_hostname=name)
        except ssl.SSLError:
            # Somebody is there, and is not who they should be.
            raise
        except OSError as error:
            failure = error
        else:
            return
    raise failure


def _request(destination: Destination, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {destination.target} HTTP/1.1",
        f"host: {destination.address.authority}",
        f"user-agent: Tollhouse/{__version__}",
        "accept-encoding: identity",
        "connection: close",
        "content-type: application/cloudevents+json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
