"""A service that serves TLS, and asks callers for certificates: handshakes, calls, streams, renewals and commands."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.certificates import Authority
from harness.service import ADMIN_KEY, Service, eventually, limits, model, providers, refused, run, serving
from harness.wire import Wire, request
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.engine("sqlite")
SHORT = (
    "header_timeout_s = 1\nbody_timeout_s = 1\nmax_header_bytes = 4096\nmax_body_bytes = 20000\nmax_connections = 4\n"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture(scope="module")
def callers(directory: Path) -> Authority:
    return Authority(directory, "callers")


@pytest.fixture(scope="module")
def _running(directory: Path, authority: Authority, callers: Authority) -> Iterator[Service]:
    certificate, key = authority.issue("server")
    with FakeProvider() as fake:
        config = providers(fake) + model("m", "openai") + limits()
        keys = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\ntls_client_ca = "{callers.file}"\n'
        with serving(directory, config, server=SHORT + keys) as service:
            yield service


@pytest.fixture
def service(_running: Service, authority: Authority, callers: Authority) -> Service:
    _running.tls = trusting(authority, *callers.issue("caller"))
    return _running


def trusting(authority: Authority, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def commands_url(service: Service) -> tuple[str, int, str]:
    """Return host, port and key of the way that commands take."""
    owner = json.loads(service.database.with_name("tollhouse.db.lock").read_text())
    host, _, port = owner["commands_url"].removeprefix("http://").partition(":")
    return host, int(port), owner["operator_token"]


def test_calls_and_administration_go_over_tls(service: Service):
    tenant = service.tenant()

    with Wire(service) as wire:
        ids = {wire.send(request(tenant)).reply().json["request_id"] for _ in range(3)}
        assert wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200

    assert len(ids) == 3
    assert len(service.rows(tenant_id=tenant)) == 3


def test_the_worker_of_the_service_runs_jobs_though_it_has_no_certificate(service: Service):
    tenant = service.tenant()
    reply = service.request("POST", "/ai/jobs", body_for(tenant, model="m"))
    assert reply.status == 202, reply
    path = f"/ai/jobs/{reply.json['job_id']}"
    eventually(lambda: service.request("GET", path).json["status"] == "complete")

    (told,) = [json.loads(line) for line in service.log().splitlines() if '"running jobs"' in line]
    port = int(told["url"].removeprefix("http://127.0.0.1:"))
    # Nobody else is let in there, whatever key there is; and there is nothing else.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for method, target, status in (("POST", "/ai/complete", 401), ("GET", path, 404), ("GET", "/metrics", 404)):
            body = json.dumps(body_for(tenant, model="m")) if method == "POST" else None
            connection.request(method, target, body, {"Authorization": f"Bearer {ADMIN_KEY}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, target


def test_a_stream_goes_over_tls_event_by_event_and_its_connection_serves_on(service: Service):
    tenant = service.tenant()

    with Wire(service) as wire:
        for _ in range(2):
            reply = wire.send(request(tenant, stream=True)).reply()
            assert reply.status == 200
            assert reply.headers["transfer-encoding"] == "chunked"
            assert b"event: done" in reply.body
        assert wire.send(request(tenant)).reply().status == 200


def test_without_a_certificate_nobody_gets_as_far_as_a_key(service: Service, authority: Authority, tmp_path: Path):
    strangers = Authority(tmp_path, "strangers")
    before = len(service.rows())

    for context in (trusting(authority), trusting(authority, *strangers.issue("stranger"))):
        service.tls = context
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            service.complete(body_for(1, model="m"))

    assert len(service.rows()) == before


def test_plain_http_and_silence_end_in_nothing(service: Service):
    with contextlib.closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")
    # The handshake has to be over within header_timeout_s.
    silent = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    with contextlib.closing(silent), contextlib.suppress(ConnectionError):
        assert silent.recv(100) == b""

    assert service.request("GET", "/livez").status == 200
    assert "Traceback" not in service.log()


def test_what_is_out_of_bounds_is_answered_before_the_connection_is_closed(service: Service):
    """A client that goes on sending reads the answer first; TLS cannot close one direction alone."""
    tenant = service.tenant()
    for raw, status in (
        (request(tenant, "x-long: " + "a" * 5000), 431),
        (request(tenant, user_message="a" * 30_000), 413),
        (b"no http at all\r\n\r\n", 400),
    ):
        with Wire(service) as wire:
            reply = wire.send(raw).reply()
            assert (reply.status, reply.headers["connection"]) == (status, "close")
    with Wire(service) as wire:
        assert wire.send(request(tenant)[:-1]).reply().status == 408


def test_connections_are_counted_and_commands_have_room_of_their_own(service: Service):
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            wire = stack.enter_context(Wire(service))
            assert wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200
        with Wire(service) as wire:
            assert wire.reply().status == 503
        assert service.run("tenant", "list").returncode == 0
    assert eventually(lambda: service.request("GET", "/livez").status == 200)


def test_commands_reach_the_service_by_a_way_of_their_own(service: Service):
    done = service.run("tenant", "create", "over-tls", "--tier", "growth")

    assert done.returncode == 0, done
    assert service.admin("GET", "/admin/tenants")["tenants"][-1]["tenant_id"] == "over-tls"


def test_the_way_of_commands_is_for_nobody_else(service: Service):
    """Any other key would be let in there without the certificate that callers have to show."""
    host, port, token = commands_url(service)
    assert host == "127.0.0.1"

    def status(method: str, path: str, *keys: str) -> int:
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=20)) as connection:
            connection.putrequest(method, path)
            for key in keys:
                connection.putheader("Authorization", f"Bearer {key}")
            connection.putheader("Content-Length", "2")
            connection.endheaders(b"{}")
            return connection.getresponse().status

    assert status("GET", "/admin/tenants", token) == 200
    assert status("GET", "/admin/tenants", ADMIN_KEY) == 401
    assert status("GET", "/admin/tenants") == 401
    assert status("GET", "/admin/tenants", ADMIN_KEY, token) == 401
    assert status("GET", "/livez") == 401
    assert status("POST", "/ai/complete", ADMIN_KEY) == 401
    # Not even with its own key: there is no call without whoever makes it.
    assert status("POST", "/ai/complete", token) == 404


def test_a_renewed_certificate_is_taken_on_a_signal_and_connections_go_on(service: Service, authority: Authority):
    def serial() -> str:
        with contextlib.closing(service.socket()) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            certificate = connection.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    before, tenant = serial(), service.tenant()
    with Wire(service) as wire:
        assert wire.send(request(tenant)).reply().status == 200
        authority.issue("server")
        service.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: serial() != before)
        assert wire.send(request(tenant)).reply().status == 200
    assert eventually(lambda: "the renewed certificate is used" in service.log())


def test_a_service_that_stops_answers_what_is_in_flight_and_leaves_who_is_idle(authority: Authority, tmp_path: Path):
    certificate, key = authority.issue("stopping")
    keys = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    with FakeProvider() as fake:
        service = Service(tmp_path, providers(fake) + model("m", "openai") + limits(), server=keys)
        service.tls = trusting(authority)
        with service, Wire(service) as idle:
            wire = Wire(service)
            tenant = service.tenant()
            assert idle.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200
            fake.behave(Behaviour(delay_s=0.5))
            wire.send(request(tenant))
            eventually(service.open_reservations)
            service.process.send_signal(signal.SIGTERM)
            with wire:
                assert wire.reply().status == 200
            assert service._reap() == 0


def test_the_oldest_version_is_the_operators_choice_but_not_with_client_certificates(
    authority: Authority, tmp_path: Path
):
    certificate, key = authority.issue("strict")
    keys = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    (tmp_path / "strict").mkdir()
    with serving(tmp_path / "strict", "", server=keys + 'tls_minimum_version = "1.3"\n') as service:
        service.tls = old
        with pytest.raises((ssl.SSLError, ConnectionError)):
            service.request("GET", "/livez")
        service.tls = trusting(authority)
        assert service.request("GET", "/livez").status == 200

    (tmp_path / "tollhouse.toml").write_text(
        f'[server]\nport = 0\n{keys}tls_client_ca = "{authority.file}"\ntls_minimum_version = "1.2"\n'
    )
    assert 'expected "1.3" beside tls_client_ca' in refused(run(tmp_path, "serve"))


@pytest.mark.parametrize("left_out", ["tls_key", "tls_certificate"])
def test_half_of_a_pair_is_refused_rather_than_served_without_tls(tmp_path: Path, authority: Authority, left_out: str):
    keys = dict(zip(("tls_certificate", "tls_key"), map(str, authority.issue("half")), strict=True))
    del keys[left_out]
    (tmp_path / "tollhouse.toml").write_text(
        "[server]\nport = 0\n" + "".join(f'{k} = "{v}"\n' for k, v in keys.items())
    )

    assert f"expected {left_out} beside it" in refused(run(tmp_path, "serve"))


def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path: Path, authority: Authority):
    certificate, _ = authority.issue("one")
    _, key = authority.issue("another")
    (tmp_path / "tollhouse.toml").write_text(
        f'[server]\nport = 0\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    )

    assert "key values mismatch" in refused(run(tmp_path, "serve"))
    assert not (tmp_path / "tollhouse.db").exists()
