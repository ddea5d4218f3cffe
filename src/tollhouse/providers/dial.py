"""Opening a connection to a provider: name, TCP, proxy, TLS. Whatever fails here, nothing was sent."""

import asyncio
import ssl
from functools import cache
from typing import cast

from tollhouse.providers.address import Address, Proxy
from tollhouse.providers.base import Unreachable
from tollhouse.providers.http1 import Connection

_MAX_TUNNEL_HEAD_BYTES = 16 * 1024


@cache
def default_tls() -> ssl.SSLContext:
    """Return the context that verifies every provider: the system's roots, or those of SSL_CERT_FILE.

    It is made once: loading the roots takes tens of milliseconds, and each copy of them memory.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialer:
    """Opens connections to one address, directly or through a proxy.

    Args:
        address: the provider's.
        proxy: the forward proxy in between, or None. An https address is reached by CONNECT (RFC 9110
            §9.3.6), so the proxy sees nothing of the exchange; with an http address it carries the requests.
        tls: how an https address is verified.
    """

    def __init__(self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._proxy = proxy
        self._tls = (tls or default_tls()) if address.scheme == "https" else None
        self._proxy_tls = default_tls() if proxy and proxy.address.scheme == "https" else None

    async def open(self, connection: Connection, until_s: float) -> None:
        """Connect ``connection``, all the way to a verified TLS session.

        Args:
            connection: a new one.
            until_s: loop time at which to give up.

        Raises:
            Unreachable: there is no connection, for the reason given.
        """
        try:
            async with asyncio.timeout_at(until_s):
                await self._open(connection)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no connection to {self._address.host} could be made: {_reason(error)}") from error

    async def _open(self, connection: Connection) -> None:
        if self._proxy is not None and self._tls is not None:
            await self._open_through_tunnel(connection, self._proxy, self._tls)
            return
        hop = self._address if self._proxy is None else self._proxy.address
        tls = self._tls if self._proxy is None else self._proxy_tls
        await self._connect(connection, hop, tls)

    async def _open_through_tunnel(self, connection: Connection, proxy: Proxy, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        tunnel = _Tunnel(self._address.host_and_port, proxy.authorization)
        transport = await self._connect(tunnel, proxy.address, self._proxy_tls)
        try:
            await tunnel.opened
            inner = await loop.start_tls(transport, connection, tls, server_hostname=self._address.host)
        except BaseException:
            transport.abort()
            raise
        if inner is None:
            raise ConnectionResetError("the proxy closed the connection")
        connection.connection_made(inner)

    @staticmethod
    async def _connect(protocol: asyncio.Protocol, hop: Address, tls: ssl.SSLContext | None) -> asyncio.Transport:
        server_name = hop.host if tls is not None else None
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, hop.host, hop.port, ssl=tls, server_hostname=server_name
        )
        return transport


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate was refused ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return getattr(error, "strerror", None) or str(error)


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel, and waits for its consent."""

    def __init__(self, target: str, authorization: str | None) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        credentials = "" if authorization is None else f"Proxy-Authorization: {authorization}\r\n"
        self._request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n".encode("ascii")
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, surplus = self._received.partition(b"\r\n\r\n")
        if not end and len(head) <= _MAX_TUNNEL_HEAD_BYTES:
            return
        version, _, status = head[:12].partition(b" ")
        if not version.startswith(b"HTTP/1.") or not end:
            self._refuse("the proxy did not answer in HTTP/1.1")
        elif not status.startswith(b"2"):
            self._refuse(f"the proxy refused with status {status.decode('ascii', 'replace')}")
        elif surplus:
            # A TLS server waits for its client to speak first: these bytes are not the provider's.
            self._refuse("the proxy sent more than its consent")
        elif not self.opened.done():
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse("the proxy closed the connection", exc)

    def _refuse(self, reason: str, cause: Exception | None = None) -> None:
        if not self.opened.done():
            refusal = ConnectionError(reason)
            refusal.__cause__ = cause
            self.opened.set_exception(refusal)
            # The one who waits may have been cancelled: asking marks the refusal as seen.
            self.opened.exception()
