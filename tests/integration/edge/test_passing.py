"""What passes an edge, what it looks like inside, and what does not pass."""

import base64
import contextlib
import socket

import pytest

from harness.service import ADMIN_KEY
from integration.edge.conftest import Front

pytestmark = pytest.mark.engine("postgresql")


def test_a_call_passes_and_is_entered(front: Front):
    tenant, key = front.tenant_with_key()

    reply = front.complete(tenant, key)

    assert reply.status == 200
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert [row["request_id"] for row in front.one.rows(tenant_id=tenant)] == [reply.json["request_id"]]


def test_a_stream_passes_whole(front: Front):
    tenant, key = front.tenant_with_key()
    body = {"model": "claude", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "hello"}]}

    reply = front.edge.request("POST", "/v1/messages", body, x_api_key=key, x_feature_slug="s", x_user_id="1")

    assert reply.status == 200
    assert b"message_stop" in reply.body
    assert len(front.one.rows(tenant_id=tenant)) == 1


def test_events_arrive_as_they_are_sent(front: Front):
    headers = {"Authorization": f"Bearer {front.key}", "x-feature-slug": "stub", "x-stub": "events"}
    front.stub.go.clear()
    with contextlib.closing(front.edge.connection()) as connection:
        connection.request("GET", "/events", headers=headers)
        response = connection.getresponse()
        first = response.read(15)
        # The second is only sent from here on: an edge that collects events has given nothing until now.
        front.stub.go.set()
        rest = response.read()

    assert first == b"data: first..\n\n"
    assert rest == b"data: second.\n\n"


def test_a_websocket_passes(front: Front):
    key = base64.b64encode(bytes(16)).decode()
    lines = [
        "GET /events/ws HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {front.key}",
        "x-feature-slug: stub",
        "x-stub: websocket",
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {key}",
    ]
    with socket.create_connection(("127.0.0.1", front.edge.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        connection.sendall(b"there and back")
        echoed = connection.recv(100)

    assert head.startswith(b"HTTP/1.1 101")
    assert echoed == b"there and back"


def test_instances_are_told_what_the_edge_knows_and_not_what_the_client_says(front: Front):
    front.stub.received.clear()
    reply = front.at_stub(
        "POST",
        "/ai/jobs?a=b%2Fc",
        b"{}",
        x_forwarded_for="6.6.6.6",
        x_real_ip="6.6.6.6",
        x_forwarded_proto="https",
        forwarded="for=6.6.6.6",
        x_tollhouse_tenant="other",
        x_tollhouse_feature="down",
        x_request_id="from-the-client.1",
        x_tenant_id="42",
    )

    (received,) = front.stub.received
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "req_stub"
    assert received.target == "/ai/jobs?a=b%2Fc"
    assert received.values("x-forwarded-for") == ["127.0.0.1"]
    assert received.values("x-real-ip") == ["127.0.0.1"]
    assert received.values("x-forwarded-proto") == ["http"]
    assert received.values("x-request-id") == ["from-the-client.1"]
    assert received.values("x-tenant-id") == ["42"]
    assert received.values("authorization") == [f"Bearer {front.key}"]
    for name in ("forwarded", "x-tollhouse-tenant", "x-tollhouse-feature"):
        assert received.values(name) == [], name


def test_a_request_without_an_id_gets_one(front: Front):
    front.stub.received.clear()
    front.at_stub("GET", "/ai/jobs/1")

    assert len(front.stub.received[0].values("x-request-id")[0]) >= 16


def test_a_feature_leads_to_its_instances(front: Front):
    tenant, key = front.tenant_with_key(feature_slug="stub")
    front.stub.received.clear()

    assert front.at_stub("GET", "/ai/jobs/1").status == 200
    # A key's own feature, where the request names none; and none that is unknown, which goes to the others.
    assert front.edge.request("GET", "/ai/jobs/2", key=key).status == 200
    elsewhere = front.edge.request("GET", f"/ai/usage?tenant_id={tenant}&period=2026-04", key=key, x_feature_slug="no")

    assert [each.target for each in front.stub.received] == ["/ai/jobs/1", "/ai/jobs/2"]
    assert elsewhere.status == 200
    assert elsewhere.json["tenant_id"] == tenant


INSIDE = (
    "/admin/tenants",
    "/admin/keys",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/health",
    "/readyz",
    "/edge/authorize",
    "/_edge/authorize",
    "/_edge/503",
    "/",
    "//admin/tenants",
    "/ai/../admin/tenants",
    "/ai/%2e%2e/admin/tenants",
    "/ai/..%2fadmin/tenants",
    # Decoded it is public; as it is sent, an admin route whose id has slashes.
    "/admin/tenants/..%2f..%2fai%2fcomplete",
    "/admin/../ai/usage",
    "/aim",
    "/admin/webhooks",
    "/events/../admin/tenants",
    "/events/%2e%2e/admin/tenants",
    "/events/ws/..%2f..%2fadmin/tenants",
)


@pytest.mark.parametrize("path", INSIDE)
def test_what_is_for_inside_is_not_there(front: Front, path: str):
    reply = front.edge.request("GET", path, key=ADMIN_KEY)

    assert reply.status in {404, 422} if "/ai/usage" in path else reply.status == 404, reply
    assert b'"tenants"' not in reply.body
    assert b"tollhouse_" not in reply.body


def test_nothing_inside_can_be_changed(front: Front):
    for path in ("/admin/tenants/7", "/ai/../admin/tenants/7", "/admin/tenants/..%2f..%2fai%2fx"):
        assert front.edge.request("PUT", path, {"is_active": True}, key=ADMIN_KEY).code == "ai_not_found"


def test_the_edge_tells_of_its_own_health(front: Front):
    assert front.edge.request("GET", "/livez").json == {"status": "ok"}
    assert front.edge.request("GET", "/healthz").json == {"status": "ready"}


def test_a_body_of_the_limit_passes_and_a_longer_one_is_refused(front: Front):
    front.stub.received.clear()
    limit = 10 * 1024 * 1024

    assert front.at_stub("POST", "/ai/jobs", bytes(limit)).json == {"bytes": limit, "target": "/ai/jobs"}
    longer = front.at_stub("POST", "/ai/jobs", bytes(limit + 1))

    assert longer.code == "ai_request_too_large"
    assert longer.status == 413
    assert len(front.stub.received) == 1


def test_a_body_in_chunks_is_held_to_the_limit_too(front: Front):
    front.stub.received.clear()
    head = f"POST /ai/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {front.key}\r\nx-feature-slug: stub\r\n"
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", front.edge.port), timeout=20) as connection:
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(11):
                connection.sendall(chunk)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert front.stub.received == []


def test_what_is_no_http_is_told_so(front: Front):
    answer = front.edge.raw(b"GET /ai/complete HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_head_beyond_the_limit_is_refused(front: Front):
    reply = front.at_stub("GET", "/ai/jobs/1", x_long="x" * 40_000)

    assert reply.status == 431
    # Envoy knows no id of a request whose head it has not read.
    assert reply.json["error"] == "ai_headers_too_large"


def test_keys_in_a_query_are_in_no_log(front: Front):
    tenant, key = front.tenant_with_key()
    path = f"/v1beta/models/claude:generateContent?key={key}"
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello there."}]}]}

    assert front.edge.request("POST", path, body, x_feature_slug="greeting", x_user_id="1").status == 200
    down = front.edge.request("POST", path, body, x_feature_slug="down")

    assert down.status == 503
    assert down.json["error"]["status"] == "UNAVAILABLE"
    assert len(front.one.rows(tenant_id=tenant)) == 1
    log = front.edge.log()
    assert key not in log
    assert "/v1beta/models/claude:generateContent" in log or front.edge.kind == "envoy"
