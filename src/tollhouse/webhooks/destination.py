"""Where a webhook may go: URLs that others choose must not become a way into the network that Tollhouse stands in.

A name is resolved once for each try, each address is judged, and the connection is made to that very address: a name
that resolves to another one the next moment (DNS rebinding) gains nothing.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollhouse.providers.address import Address, parse_base_url

Network = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address

MAX_URL = 2048
# Addresses that hold an IPv4 address, to which a translator leads: in networks without IPv4 every name has such ones
# (RFC 6052); and those whose translation is a network's own affair (RFC 8215).
_TRANSLATED = ip_network("64:ff9b::/96")
_TRANSLATED_LOCALLY = ip_network("64:ff9b:1::/48")
# Names that are looked up at once, those included that nobody waits for any more.
_MOST_LOOKUPS = 256
_PLAIN = "plain http:// is only for the networks of [webhooks] allow_networks; expected https://"
_lookups = threading.BoundedSemaphore(_MOST_LOOKUPS)


class Refused(Exception):
    """A webhook may not go there; the message says why, and is fit for whoever chose the URL."""


class Destination(msgspec.Struct, frozen=True):
    """A URL taken apart.

    Attributes:
        target: path and query.
    """

    address: Address
    target: str


def parse_destination(url: str) -> Destination:
    """Take a webhook's URL apart; raises ValueError with what was expected, which never repeats the URL."""
    if len(url) > MAX_URL:
        raise ValueError(f"expected a URL of at most {MAX_URL} characters")
    try:
        base = parse_base_url(url)
    except ValueError as error:
        raise ValueError(
            str(error).replace("base_url", "the URL").removesuffix(": the key belongs into api_key")
        ) from None
    parts = urlsplit(url)
    return Destination(base.address, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def is_public(address: IpAddress) -> bool:
    """Whether an address is anybody's on the internet, and no network's own."""
    if isinstance(address, IPv6Address):
        if address in _TRANSLATED:
            return is_public(IPv4Address(address.packed[-4:]))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        # Ways through other networks, whose ends nobody can judge from here.
        if address in _TRANSLATED_LOCALLY or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


async def pinned(address: Address, allowed: Sequence[Network]) -> list[IpAddress]:
    """Return the addresses that a webhook may be sent to, the first one at first; at least one.

    Args:
        allowed: networks to which one may go although they are not public.

    Raises:
        Refused: the name has none to which one may go, or plain HTTP would leave these networks.
        OSError: the name cannot be resolved.
    """
    return _permitted(_addresses(await look_up(address.host, address.port)), address.scheme, allowed)


def refuse_at_once(url: str, allowed: Sequence[Network]) -> None:
    """Refuse a URL of which it is known without asking anybody that no try could go there.

    Names are judged at each try alone, by what they lead to then; but for ``localhost``, which is this machine.

    Raises:
        ValueError: it is none that a webhook may have.
        Refused: its host is an address, or the own machine, to which none may go.
    """
    address = parse_destination(url).address
    host = address.host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        own = [entry for each in ("127.0.0.1", "::1") for entry in _numeric(each, address.port)]
        _permitted(_addresses(own), address.scheme, allowed)
    elif found := _numeric(address.host, address.port):
        _permitted(_addresses(found), address.scheme, allowed)
    elif address.scheme == "http" and not allowed:
        raise Refused(_PLAIN)


def _numeric(host: str, port: int) -> list[Any]:
    """Return what the system makes of a host that is an address, in whatever way of writing it; of a name nothing."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []


def _addresses(found: Sequence[Any]) -> list[IpAddress]:
    return [ip_address(entry[4][0]) for entry in found if "%" not in str(entry[4][0])]


def _permitted(addresses: Sequence[IpAddress], scheme: str, allowed: Sequence[Network]) -> list[IpAddress]:
    own = [each for each in addresses if any(each.version == net.version and each in net for net in allowed)]
    public = [each for each in addresses if is_public(each)]
    permitted = own if scheme != "https" else [each for each in addresses if each in own or each in public]
    if permitted:
        return permitted
    if public:
        raise Refused(_PLAIN)
    raise Refused("it leads into a private network; [webhooks] allow_networks names those that may be reached")


async def look_up(host: str, port: int) -> list[Any]:
    """Return what ``socket.getaddrinfo`` does of a name, by a thread of its own; raises OSError.

    The event loop has few threads for names, and looks providers' up by them: one whose servers do not answer keeps
    its thread for half a minute, and four of them would keep all calls from new connections.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Any]] = loop.create_future()
    if not _lookups.acquire(blocking=False):
        raise OSError("too many names are being looked up")

    def tell(found: list[Any] | None, error: Exception | None) -> None:
        if future.done():
            # Its time was over before.
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or [])

    def work() -> None:
        found: list[Any] | None = None
        failure: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failure = error
        finally:
            _lookups.release()
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, found, failure)

    try:
        threading.Thread(target=work, name="tollhouse-webhook-name", daemon=True).start()
    except RuntimeError:
        _lookups.release()
        raise OSError("no thread can be started to look the name up") from None
    return await future
