"""The way in: TLS, what leads to it, and the names that are served."""

import datetime as dt
import ssl
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness.edge import KINDS, Edge, Kind, Stub
from harness.service import free_port

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of ``localhost`` and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


@pytest.mark.parametrize("kind", KINDS)
def test_tls_and_what_leads_to_it(kind: Kind, certificate: tuple[Path, Path], tmp_path: Path):
    chain, secret = certificate
    plain = free_port()
    options = ["--certificate", str(chain), "--certificate-key", str(secret), "--http-port", str(plain)]
    options += ["--server-name=localhost"]
    with Stub() as stub, Edge(kind, tmp_path, f"--upstream={stub.address}", *options) as edge:
        tls_port = edge.port
        edge.tls = ssl.create_default_context(cafile=str(chain))
        reply = edge.request("POST", "/ai/jobs", b"{}", x_forwarded_proto="http")
        elsewhere = edge.request("GET", "/livez", host="other.example")
        with warnings.catch_warnings(action="ignore"):
            edge.tls.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            edge.request("GET", "/livez")
        edge.tls, edge.port = None, plain
        redirect = edge.request("POST", "/ai/jobs?a=b", b"{}", host="localhost")

    assert reply.status == 200
    assert stub.received[-1].values("x-forwarded-proto") == ["https"]
    assert elsewhere.status in {404, 421}
    assert redirect.status == 308
    assert redirect.headers["location"] == f"https://localhost:{tls_port}/ai/jobs?a=b"


@pytest.mark.parametrize("kind", KINDS)
def test_a_trusted_proxys_word_on_the_client_is_taken_and_nobody_elses(kind: Kind, tmp_path: Path):
    for name in ("trusting", "not"):
        (tmp_path / name).mkdir()
    with Stub() as stub:
        upstream = f"--upstream={stub.address}"
        with Edge(kind, tmp_path / "trusting", upstream, "--trusted-proxy=127.0.0.0/8") as edge:
            edge.request("GET", "/ai/jobs/1", x_forwarded_for="6.6.6.6, 198.51.100.7")
        with Edge(kind, tmp_path / "not", upstream, "--trusted-proxy=192.0.2.1") as edge:
            edge.request("GET", "/ai/jobs/2", x_forwarded_for="198.51.100.7")

    told = {each.target: each.values("x-forwarded-for") for each in stub.received}
    assert told["/ai/jobs/1"] == ["198.51.100.7"]
    assert told["/ai/jobs/2"] == ["127.0.0.1"]
