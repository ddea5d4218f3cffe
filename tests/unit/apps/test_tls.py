"""What handshakes are made with, shaken between two ends in memory, and over the renewal of files."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from harness.certificates import Authority
from tollhouse.apps.tls import ServerTls, TlsSettings, tls_settings
from tollhouse.config import Server
from tollhouse.errors import StartError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shake_hands(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Return the client's end of a handshake that both ends are content with; raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    # TLS 1.3 tells of a client's certificate only with what follows.
    ours.write(b"hello")
    assert theirs.read() == b"hello"
    return theirs


def trusting(authority: Authority, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def serial(end: ssl.SSLObject) -> str:
    certificate = end.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_both_versions_that_are_safe_are_spoken_and_none_before(authority: Authority):
    tls = ServerTls(TlsSettings(*authority.issue("server"), None))

    for version, spoken in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        client = trusting(authority)
        client.minimum_version = client.maximum_version = version
        client.set_alpn_protocols(["h2", "http/1.1"])
        end = shake_hands(tls.context, client)
        assert (end.version(), end.selected_alpn_protocol()) == (spoken, "http/1.1")

    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_version_is_refused_by_the_server(authority: Authority):
    tls = ServerTls(TlsSettings(*authority.issue("server"), None))
    client = trusting(authority)
    client.set_ciphers("DEFAULT@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, client)


def test_callers_show_a_certificate_of_the_client_ca_where_one_is_named(authority: Authority, tmp_path: Path):
    callers, strangers = Authority(tmp_path, "callers"), Authority(tmp_path, "strangers")
    certificate, key = map(str, authority.issue("server"))
    settings = tls_settings(Server(tls_certificate=certificate, tls_key=key, tls_client_ca=str(callers.file)))
    assert settings is not None
    tls = ServerTls(settings)

    shake_hands(tls.context, trusting(authority, *callers.issue("caller")))
    for client in (trusting(authority), trusting(authority, *strangers.issue("stranger"))):
        with pytest.raises(ssl.SSLError):
            shake_hands(tls.context, client)


def test_no_session_goes_on_where_a_certificate_is_asked_for(authority: Authority, tmp_path: Path):
    """Whoever resumed one would not be asked again, though the CA that vouched for it may have been taken out."""
    callers = Authority(tmp_path, "callers")
    caller = callers.issue("caller")
    certificate, key = map(str, authority.issue("server"))

    def resumes(client_ca: str | None) -> bool:
        settings = tls_settings(Server(tls_certificate=certificate, tls_key=key, tls_client_ca=client_ca))
        assert settings is not None
        tls, client = ServerTls(settings), trusting(authority, *caller)
        session = shake_hands(tls.context, client).session
        return bool(shake_hands(tls.context, client, session=session).session_reused)

    # Seen where nobody is asked, so that the other answer means something.
    assert resumes(None)
    assert not resumes(str(callers.file))
    old = trusting(authority, *caller)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    settings = tls_settings(Server(tls_certificate=certificate, tls_key=key, tls_client_ca=str(callers.file)))
    assert settings is not None
    assert not accepts(ServerTls(settings), old)


@pytest.mark.parametrize("name", ["localhost", None], ids=["with the server's name", "without"])
def test_renewed_files_are_taken_without_being_told(authority: Authority, name: str | None):
    async def renew() -> None:
        tls = ServerTls(TlsSettings(*authority.issue("server"), None))
        client = trusting(authority)
        client.check_hostname = name is not None
        before = serial(shake_hands(tls.context, client, name))
        following = asyncio.create_task(tls.follow(every_s=0.01))
        authority.issue("server")
        async with asyncio.timeout(20):
            while serial(shake_hands(tls.context, client, name)) == before:
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(renew())


def test_a_client_ca_that_is_taken_out_is_trusted_no_more(authority: Authority, tmp_path: Path):
    async def renew() -> None:
        old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(old.file.read_bytes())
        tls = ServerTls(TlsSettings(*authority.issue("server"), trusted))
        caller = trusting(authority, *old.issue("caller"))
        shake_hands(tls.context, caller)
        following = asyncio.create_task(tls.follow(every_s=0.01))
        trusted.write_bytes(new.file.read_bytes())
        newcomer = trusting(authority, *new.issue("newcomer"))
        async with asyncio.timeout(20):
            while not accepts(tls, newcomer):
                await asyncio.sleep(0.01)
        assert not accepts(tls, caller)
        following.cancel()

    asyncio.run(renew())


def accepts(tls: ServerTls, client: ssl.SSLContext) -> bool:
    try:
        shake_hands(tls.context, client)
    except ssl.SSLError:
        return False
    return True


def test_half_a_renewal_changes_nothing_and_is_told_once(authority: Authority, tmp_path: Path):
    async def renew() -> None:
        certificate, key = authority.issue("server")
        tls = ServerTls(TlsSettings(certificate, key, None))
        client = trusting(authority)
        before = serial(shake_hands(tls.context, client))
        renewed = authority.issue("renewed")
        renewed[0].replace(certificate)
        following = asyncio.create_task(tls.follow(every_s=0.01))
        with capture_logs() as logs:
            async with asyncio.timeout(20):
                while not logs:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert serial(shake_hands(tls.context, client)) == before

        renewed[1].replace(key)
        async with asyncio.timeout(20):
            while serial(shake_hands(tls.context, client)) == before:
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(renew())


def test_what_cannot_be_used_says_which_key_and_why(authority: Authority, tmp_path: Path):
    certificate, key = authority.issue("server")
    _, other = authority.issue("other")
    missing, text = tmp_path / "missing.pem", tmp_path / "text"
    text.write_text("no certificate")

    for files, told in (
        (TlsSettings(missing, key, None), f"[server] tls_certificate: {missing}: No such file"),
        (TlsSettings(certificate, missing, None), f"[server] tls_key: {missing}: No such file"),
        (TlsSettings(text, key, None), f"[server] tls_certificate, tls_key: {text}"),
        (TlsSettings(certificate, other, None), "key values mismatch"),
        (TlsSettings(certificate, key, missing), f"[server] tls_client_ca: {missing}: No such file"),
        (TlsSettings(certificate, key, text), f"[server] tls_client_ca: {text} cannot be used"),
    ):
        with pytest.raises(StartError) as refusal:
            ServerTls(files)
        assert told in str(refusal.value)
        assert "PEM" in str(refusal.value)


def test_an_encrypted_key_is_refused_without_a_question_to_the_terminal(authority: Authority):
    with pytest.raises(StartError, match="the key is encrypted"):
        ServerTls(TlsSettings(*authority.issue("server", passphrase=b"a passphrase"), None))
