"""TLS of the listeners: certificates are renewed while connections are served.

The server is given one context for its whole life, which hands each handshake to the newest one. A new one is made
whole from the files, or not at all, so that a half-written renewal or a revoked client CA never leaves a mixture.
"""

import asyncio
import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from tollhouse.config import Server
from tollhouse.errors import StartError

LOOK_EVERY_S = 5.0
_LOG = structlog.get_logger("tollhouse.tls")
_Signature = tuple[tuple[int, int, int] | None, ...]


class TlsSettings(msgspec.Struct, frozen=True):
    """What TLS is made from: files in PEM.

    Attributes:
        certificate: the server's, followed by those that vouch for it.
        key: its private key, not encrypted.
        client_ca: who vouches for callers; None asks them for no certificate.
        minimum_version: of the protocol.
    """

    certificate: Path
    key: Path
    client_ca: Path | None
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2

    def files(self) -> Sequence[Path]:
        """Return those that there are to be."""
        return [self.certificate, self.key, *([] if self.client_ca is None else [self.client_ca])]


def tls_settings(server: Server) -> TlsSettings | None:
    """Return what the configuration names; None serves without TLS."""
    if server.tls_certificate is None or server.tls_key is None:
        return None
    client_ca = None if server.tls_client_ca is None else Path(server.tls_client_ca)
    # OpenSSL resumes a session of TLS 1.2 without asking for the certificate again, though its CA may be gone by then.
    needs_newest = client_ca is not None or server.tls_minimum_version == "1.3"
    minimum = ssl.TLSVersion.TLSv1_3 if needs_newest else ssl.TLSVersion.TLSv1_2
    return TlsSettings(Path(server.tls_certificate), Path(server.tls_key), client_ca, minimum)


class ServerTls:
    """What connections are accepted with.

    Attributes:
        context: for the server; handshakes that begin after a renewal are made with the renewed files.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """Load the files; raises StartError, with the configuration's key and what is wrong with its file."""
        self._settings = settings
        self._seen = _look(settings)
        self._current = _load(settings)
        self._refused: _Signature | None = None
        self._wanted = asyncio.Event()
        self.context = _load(settings)
        self.context.sni_callback = self._choose

    def renew(self) -> None:
        """Look at the files now, whatever their times say."""
        self._seen = ()
        self._refused = None
        self._wanted.set()

    async def follow(self, every_s: float = LOOK_EVERY_S) -> None:
        """Take renewed files as they come, until cancelled; what cannot be used is told once, and left."""
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            # The files may lie on a file system that does not answer, and the loop serves calls.
            await asyncio.to_thread(self._look_again)

    def _look_again(self) -> None:
        # Looked at before they are read: what changes in between is seen the next time.
        found = _look(self._settings)
        if found == self._seen:
            return
        try:
            renewed, end = _load(self._settings), end_of(self._settings.certificate)
        except StartError as error:
            if found != self._refused:
                _LOG.error("the renewed certificate is not used; the one before stays", reason=str(error))
            self._refused = found
        else:
            self._seen, self._current = found, renewed
            _LOG.info("the renewed certificate is used", file=str(self._settings.certificate), ends_at=end.isoformat())

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def end_of(certificate: Path) -> dt.datetime:
    """Return when the first certificate of a file ends; raises StartError for one that cannot be read."""
    # Imported here, since only those who serve TLS need it.
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise StartError(f"[server] tls_certificate: {certificate}: {error}: expected a certificate in PEM") from error


def _look(settings: TlsSettings) -> _Signature:
    """Return what changes with the files' content."""
    found: list[tuple[int, int, int] | None] = []
    for file in settings.files():
        try:
            state = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)


def _load(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = settings.minimum_version
    context.set_alpn_protocols(["http/1.1"])
    for key, file in (("tls_certificate", settings.certificate), ("tls_key", settings.key)):
        _check_readable(key, file)
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_refuse_encrypted)
    except (OSError, ValueError) as error:
        raise StartError(
            f"[server] tls_certificate, tls_key: {settings.certificate} and {settings.key} cannot be used "
            f"({_reason(error)}): expected a certificate in PEM and its own private key, not encrypted"
        ) from error
    if settings.client_ca is not None:
        _check_readable("tls_client_ca", settings.client_ca)
        try:
            context.load_verify_locations(settings.client_ca)
        except OSError as error:
            raise StartError(
                f"[server] tls_client_ca: {settings.client_ca} cannot be used ({_reason(error)}): "
                "expected certificates in PEM"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        # Without a ticket no session can be resumed, and every connection is asked for its certificate.
        context.num_tickets = 0
    return context


def _check_readable(key: str, file: Path) -> None:
    """Raise StartError for a file that cannot be opened: OpenSSL would not say which."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise StartError(f"[server] {key}: {file}: {error.strerror}: expected a file in PEM") from error


def _refuse_encrypted() -> str:
    """Stand in for the question for a passphrase that OpenSSL would put to the terminal."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
