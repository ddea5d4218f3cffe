"""The way in: TLS, what leads to it, and the names that are served."""

import ssl
import warnings
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.certificates import Authority
from harness.edge import KINDS, Edge, Kind, Stub
from harness.service import ADMIN_KEY, eventually, free_port, limits, model, providers, serving
from tollhouse.testing import FakeProvider

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Who vouches for a certificate of ``localhost``, the certificate, and its key."""
    authority = Authority(tmp_path_factory.mktemp("certificate"))
    chain, secret = authority.issue("edge")
    return authority.file, chain, secret


@pytest.mark.parametrize("kind", KINDS)
def test_tls_and_what_leads_to_it(kind: Kind, certificate: tuple[Path, Path, Path], tmp_path: Path):
    authority, chain, secret = certificate
    plain = free_port()
    options = ["--certificate", str(chain), "--certificate-key", str(secret), "--http-port", str(plain)]
    options += ["--server-name=localhost"]
    with Stub() as stub, Edge(kind, tmp_path, f"--upstream={stub.address}", *options) as edge:
        tls_port = edge.port
        edge.tls = ssl.create_default_context(cafile=authority)
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
def test_instances_are_reached_by_tls_with_a_certificate_and_no_others_are(kind: Kind, tmp_path: Path):
    """Calls and the question whose they are alike; an instance that is not who it should be is sent nothing."""
    authority, callers, strangers = (Authority(tmp_path, name) for name in ("authority", "callers", "strangers"))
    certificate, key = authority.issue("server")
    shown, shown_key = callers.issue("edge")
    keys = f'admin_port = 0\ntls_certificate = "{certificate}"\ntls_key = "{key}"\ntls_client_ca = "{callers.file}"\n'
    body = body_for("t", model="m")
    with FakeProvider() as fake:
        config = providers(fake) + model("m", "openai") + limits()
        with serving(tmp_path, config, server=keys) as service:
            assert service.run("tenant", "create", "t", "--tier", "growth").returncode == 0
            options = [f"--upstream=127.0.0.1:{service.port}", "--upstream-server-name=localhost"]
            options += [f"--upstream-certificate={shown}", f"--upstream-certificate-key={shown_key}"]
            for name in ("known", "stranger"):
                (tmp_path / name).mkdir()
            with Edge(kind, tmp_path / "known", *options, f"--upstream-ca={authority.file}") as edge:
                assert eventually(lambda: edge.request("GET", "/healthz").status == 200)
                for _ in range(2):
                    call = edge.request("POST", "/ai/complete", body, key=ADMIN_KEY, x_tenant_id="t")
                    assert call.status == 200, (call, edge.log())
                assert edge.request("POST", "/ai/complete", body, key="wrong").status == 401
            with Edge(kind, tmp_path / "stranger", *options, f"--upstream-ca={strangers.file}") as edge:
                call = edge.request("POST", "/ai/complete", body, key=ADMIN_KEY, x_tenant_id="t")
                assert call.status == 503, call
        assert len(fake.receipts()) == 2


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
