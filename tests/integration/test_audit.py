"""The audit log of a running service: uses of keys on the hot path, and what the commands make of it."""

import json
from functools import partial

import pytest

from harness.calls import body_for
from harness.service import ADMIN_KEY, Service, eventually, limits, model, providers
from tollhouse.testing import FakeProvider


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    with FakeProvider() as fake:
        config = providers(fake) + model("claude-haiku-4-5", "anthropic") + limits()
        with Service(tmp_path_factory.mktemp("audit"), config) as service:
            yield service


def entries(service, **where):
    query = "&".join(f"{name}={value}" for name, value in where.items())
    return service.request("GET", f"/admin/audit?limit=1000&{query}").json["entries"]


def test_uses_on_the_hot_path_are_told_within_moments(service):
    tenant = service.tenant()
    made = service.new_key(tenants=[tenant])
    assert service.complete(body_for(tenant), key=made["key"]).status == 200
    for _ in range(20):
        assert service.complete(body_for("another"), key=made["key"]).status == 403
    assert service.complete(body_for(tenant), key=ADMIN_KEY).status == 200
    service.request("DELETE", f"/admin/keys/{made['key_id']}")
    for _ in range(20):
        assert service.complete(body_for(tenant), key=made["key"]).status == 401
    for action, key_id in (
        ("key.first_used", made["key_id"]),
        ("key.used_for_foreign_tenant", made["key_id"]),
        ("key.used_after_revocation", made["key_id"]),
        ("admin_key.used", "admin"),
    ):
        told = eventually(partial(entries, service, action=action))
        assert [entry["actor"] for entry in told] == [key_id], action
    assert entries(service, action="key.used_after_revocation")[0]["after"]["addresses"] == ["127.0.0.1"]
    assert entries(service, action="key.used_for_foreign_tenant")[0]["tenant_id"] == "another"


def test_the_log_is_exported_and_proven_beside_the_service(service):
    service.new_key(tenants=[service.tenant()])
    # It is entered a moment after the use, and nothing is to come between the two commands.
    eventually(partial(entries, service, action="admin_key.used"))
    exported = service.run("audit", "export")
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    assert exported.returncode == 0, exported
    assert {"tenant.created", "key.created"} <= {row["action"] for row in rows}
    assert ADMIN_KEY not in exported.stdout
    verified = service.verify()
    anchor = f"{len(rows)}:{rows[-1]['row_hash']}"
    assert f"The audit log's end, to be kept elsewhere: {anchor}\n" in verified.stdout
    assert service.run("verify", "--audit-anchor", anchor).returncode == 0
    wrong = service.run("verify", "--audit-anchor", f"{len(rows)}:{'f' * 64}")
    assert (wrong.returncode, "rewritten since" in wrong.stdout) == (1, True)
    assert "expected ENTRIES:HASH" in service.run("verify", "--audit-anchor", "x").stderr
    last = service.run("audit", "export", "--after-id", str(rows[-2]["id"]))
    assert json.loads(last.stdout) == rows[-1]
    assert "tenant.created" in service.run("audit", "--limit", "100").stdout
