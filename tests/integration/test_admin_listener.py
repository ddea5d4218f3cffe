"""A service whose operators' addresses have a listener of their own: what is served where, with and without TLS."""

import contextlib
import http.client
import json
import ssl
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.certificates import Authority
from harness.service import ADMIN_KEY, Service, eventually, limits, model, providers, serving
from tollhouse.testing import FakeProvider

pytestmark = pytest.mark.engine("sqlite")
ADMIN = "admin_port = 0\n"
FOR_OPERATORS = ["/admin/tenants", "/admin/keys", "/admin/audit", "/metrics", "/health", "/docs", "/openapi.json"]
# Other ways to write the same, which a proxy or a router might take for it.
DISGUISED = ["/admin/", "//admin/tenants", "/ai/../admin/tenants", "/ai/..%2fadmin/tenants", "/%61dmin/tenants", "/aix"]
FOR_ALL = ["/livez", "/readyz", "/v1/models", "/edge/authorize", "/edge/authorize/ai/complete"]


def owner(service: Service) -> dict[str, str]:
    told: dict[str, str] = json.loads(service.database.with_name("tollhouse.db.lock").read_text())
    return told


def admin_address(service: Service) -> tuple[str, int]:
    """Return where the service says that its administration is."""
    assert eventually(lambda: '"admin_url"' in service.log())
    told = [json.loads(line) for line in service.log().splitlines() if '"admin_url"' in line]
    scheme, _, address = told[-1]["admin_url"].partition("://")
    return scheme, int(address.rpartition(":")[2])


def status(service: Service, path: str, tls: ssl.SSLContext | None = None, method: str = "GET") -> int:
    """Return how the administration's listener answers."""
    _, port = admin_address(service)
    made = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    )
    with contextlib.closing(made) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        return connection.getresponse().status


def test_operators_addresses_are_served_at_their_own_port_and_nowhere_else(tmp_path: Path):
    with FakeProvider() as fake:
        config = providers(fake) + model("m", "openai") + limits()
        with serving(tmp_path, config, server=ADMIN) as service:
            for path in FOR_OPERATORS:
                assert (path, status(service, path)) == (path, 200)
            for path in [*FOR_OPERATORS, *DISGUISED]:
                reply = service.request("GET", path)
                assert (path, reply.status, reply.json["error"]) == (path, 404, "ai_not_found")
                assert reply.json["request_id"] == reply.headers["x-request-id"]
            for path in FOR_ALL:
                assert (path, service.request("GET", path).status) == (path, 200)

            # Commands find the way; calls have only one.
            done = service.run("tenant", "create", "t", "--tier", "growth")
            assert done.returncode == 0, done
            assert service.complete(body_for("t", model="m")).status == 200
            assert status(service, "/ai/complete", method="POST") == 404
            assert service.request("GET", "/ai/usage?tenant_id=t").status == 200
            assert len(service.rows(tenant_id="t")) == 1


@pytest.mark.parametrize("is_plain", [False, True], ids=["over TLS", "plain"])
def test_administration_speaks_tls_too_unless_told_otherwise(tmp_path: Path, *, is_plain: bool):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    keys = f'{ADMIN}tls_certificate = "{certificate}"\ntls_key = "{key}"\nadmin_tls = {str(not is_plain).lower()}\n'
    trusting = ssl.create_default_context(cafile=authority.file)
    with serving(tmp_path, "", server=keys) as service:
        service.tls = trusting
        assert service.request("GET", "/livez").status == 200
        assert admin_address(service)[0] == ("http" if is_plain else "https")
        assert status(service, "/metrics", None if is_plain else trusting) == 200
        # A plain way for commands is opened only where there is none.
        assert owner(service)["commands_url"].endswith(f":{admin_address(service)[1]}") is is_plain
        assert service.run("tenant", "list").returncode == 0


def test_a_port_that_is_taken_is_told_of_by_its_key(tmp_path: Path):
    with serving(tmp_path, "", server=ADMIN) as service:
        _, port = admin_address(service)
        (tmp_path / "other").mkdir()
        other = Service(tmp_path / "other", "", server=f"admin_port = {port}\n")
        done = other.run("serve")
    assert done.returncode == 2
    assert "[server] admin_host, admin_port" in done.stderr
