"""Probes, documents and the form of every error, over real HTTP."""

import json
import re
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa

from harness import engines
from harness.postgres import shared_server

OPEN = ["/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs"]


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("key", [None, "th_unknown"])
def test_operators_need_no_key(plane, path, key):
    answer = plane("GET", path, key=key)
    assert answer.status == 200
    assert re.fullmatch(r"req_[0-9a-f]{28}", answer.headers["x-request-id"])


def test_the_probes_say_that_all_is_well(plane):
    assert plane("GET", "/livez").json == {"status": "ok"}
    assert plane("GET", "/readyz").json == {"status": "ready"}
    health = plane("GET", "/health").json
    assert health["status"] == "ok"
    assert health["database"] == {"writable": True, "unwritten_endings": 0, "waiting": 0}
    assert health["memory"]["rss_bytes"] > 10_000_000
    assert health["providers"] == {}


def test_metrics_are_in_prometheus_text_format(plane):
    answer = plane("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\ntollhouse_unwritten_endings 0.0\n" in answer.body


def test_a_ledger_that_cannot_be_written_is_not_ready_and_unhealthy_while_the_process_lives(fresh_plane, engine):
    if engine == "sqlite":
        drop = sa.text("DROP TABLE ai_settings")
        fresh_plane.wait_for(fresh_plane.database.write(lambda connection: connection.execute(drop).close()))
    else:
        # As where another server has become the primary.
        name = engines.database_url(fresh_plane.path).rpartition("/")[2]
        shared_server().execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        for pid in shared_server().backend_pids(name):
            shared_server().execute(f"SELECT pg_terminate_backend({pid})")
    assert fresh_plane("GET", "/livez").status == 200
    ready = fresh_plane("GET", "/readyz")
    assert (ready.status, ready.error[0], ready.headers["retry-after"]) == (503, "ai_unavailable", "1")
    health = fresh_plane("GET", "/health")
    assert (health.status, health.json["status"], health.json["database"]["writable"]) == (503, "unhealthy", False)


# Errors.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/admin",
        "/admin/tenants/1/2",
        "/docs/x",
        "/schema",
        "/schema/redoc",
        "/ai",
        "/%2e%2e/etc",
        "//x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_not_there_is_not_found(plane, method, path):
    answer = plane(method, path)
    assert (answer.status, answer.error[0]) == (404, "ai_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/livez", {"GET", "OPTIONS"}),
        ("DELETE", "/admin/tenants/1", {"GET", "PUT", "OPTIONS"}),
        ("PATCH", "/admin/keys", {"GET", "POST", "OPTIONS"}),
        ("GET", "/admin/keys/key_1", {"DELETE", "OPTIONS"}),
        ("GET", "/ai/complete", {"POST", "OPTIONS"}),
        ("TRACE", "/ai/usage", {"GET", "OPTIONS"}),
    ],
)
def test_the_wrong_method_is_refused_with_the_right_ones(plane, method, path, allowed):
    answer = plane(method, path)
    assert (answer.status, answer.error[0]) == (405, "ai_method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_body_over_the_limit_is_refused(plane):
    body = json.dumps({"name": "x" * 1024 * 1024})
    answer = plane("PUT", "/admin/tenants/1", body)
    assert (answer.status, answer.error[0]) == (413, "ai_request_too_large")
    chunked = plane("PUT", "/admin/tenants/1", iter([body.encode()]))
    assert (chunked.status, chunked.error[0]) == (413, "ai_request_too_large")


def test_a_stranger_learns_nothing_of_what_is_wrong_with_the_request(plane):
    for path in ("/admin/tenants/x?limit=0", "/admin/tenants/" + "x" * 100):
        assert plane("PUT", path, "{", key=None).error[0] == "ai_unauthorized"


@pytest.mark.parametrize(
    "authorization", ["Basic YTpi", "Bearer", "bearer ", "Token x", "the-admin-key-of-the-configuration", "Bearer é"]
)
def test_only_bearer_keys_are_keys(plane, authorization):
    sent = {"Authorization": authorization.encode("latin-1")}
    answer = plane("GET", "/admin/keys", key=None, headers=sent)
    assert (answer.status, answer.error[0]) == (401, "ai_unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_answer_has_an_id_of_its_own(plane):
    answers = [plane("GET", path, key=key) for path in ("/livez", "/nothing", "/admin/keys") for key in (None, "x")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)


def test_a_completion_call_that_is_not_taken_for_one_is_told_where_to_go(plane):
    answer = plane("POST", "/ai/complete/", {"anything": True})
    assert answer.error[0] == "ai_not_found"
    assert "without a slash at the end" in answer.error[1]
    for path in ("/v1/messages/", "/v1/chat/completions/"):
        assert "without a slash at the end" in plane("POST", path, {"anything": True}).json["error"]["message"]
    unknown = plane("POST", "/v1beta/models/m:generateNothing", {"anything": True}).json["error"]
    assert "a colon and one of generateContent" in unknown["message"]


# Documents.


def test_the_openapi_document_covers_every_address_and_resolves(plane):
    document = plane("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    operations = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert operations == {
        ("post", "/ai/complete"),
        ("get", "/ai/usage"),
        ("get", "/ai/usage/tenants"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/health"),
        ("get", "/metrics"),
        ("get", "/admin/tenants"),
        ("get", "/admin/tenants/{tenant_id}"),
        ("put", "/admin/tenants/{tenant_id}"),
        ("get", "/admin/tenants/{tenant_id}/features"),
        ("put", "/admin/tenants/{tenant_id}/features/{feature_slug}"),
        ("get", "/admin/tenants/{tenant_id}/budgets"),
        ("put", "/admin/tenants/{tenant_id}/budgets/{budget_scope}/{scope_id}"),
        ("delete", "/admin/tenants/{tenant_id}/budgets/{budget_scope}/{scope_id}"),
        ("get", "/admin/tenants/{tenant_id}/limits"),
        ("put", "/admin/tenants/{tenant_id}/limits"),
        ("delete", "/admin/tenants/{tenant_id}/limits"),
        ("put", "/admin/tenants/{tenant_id}/limits/{limit_scope}/{scope_id}"),
        ("delete", "/admin/tenants/{tenant_id}/limits/{limit_scope}/{scope_id}"),
        ("get", "/admin/keys"),
        ("post", "/admin/keys"),
        ("delete", "/admin/keys/{key_id}"),
        ("put", "/admin/keys/{key_id}/budget"),
        ("delete", "/admin/keys/{key_id}/budget"),
        ("get", "/admin/keys/{key_id}/limits"),
        ("put", "/admin/keys/{key_id}/limits"),
        ("delete", "/admin/keys/{key_id}/limits"),
        ("get", "/admin/audit"),
        ("get", "/admin/audit/export"),
        ("post", "/admin/reconciliations"),
        ("get", "/admin/webhooks"),
        ("post", "/admin/webhooks"),
        ("get", "/admin/webhooks/{endpoint_id}"),
        ("patch", "/admin/webhooks/{endpoint_id}"),
        ("delete", "/admin/webhooks/{endpoint_id}"),
        ("post", "/admin/webhooks/{endpoint_id}/rotate"),
        ("post", "/admin/webhooks/{endpoint_id}/retry"),
        ("get", "/admin/webhook-deliveries"),
        ("post", "/admin/webhook-deliveries/{delivery_id}/retry"),
        ("delete", "/admin/webhook-deliveries/{delivery_id}"),
        ("post", "/admin/webhooks/{endpoint_id}/test"),
        ("get", "/admin/webhook-deliveries/{delivery_id}"),
        ("get", "/admin/jobs/{job_id}"),
        ("delete", "/admin/jobs/{job_id}"),
        ("get", "/admin/jobs"),
        ("post", "/admin/jobs/{job_id}/retry"),
        ("get", "/ai/jobs/{job_id}"),
        ("delete", "/ai/jobs/{job_id}"),
        ("get", "/ai/jobs/{job_id}/download"),
        ("post", "/ai/jobs"),
        ("get", "/reports/{job_id}/download"),
        ("post", "/reports/generate"),
        ("get", "/reports/{job_id}/status"),
        ("get", "/ai/schedules"),
        ("post", "/ai/schedules"),
        ("get", "/ai/schedules/{schedule_id}"),
        ("delete", "/ai/schedules/{schedule_id}"),
        ("get", "/events"),
        ("post", "/events/token"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("post", "/v1/chat/completions"),
        ("post", "/v1/responses"),
        ("post", "/v1/embeddings"),
        ("post", "/v1/messages"),
        ("post", "/v1/messages/count_tokens"),
        ("post", "/v1beta/models/{name}"),
    }
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document, default=str)))
    assert references == set(schemas)


def test_the_openapi_document_tells_types_and_errors_as_they_are(plane):
    document = plane("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]
    assert schemas["Tenant"]["properties"]["budget_usd"]["type"] == "number"
    assert schemas["TenantChanges"]["additionalProperties"] is False
    assert schemas["CompleteBody"]["properties"]["max_tokens"]["default"] == 1024
    complete = document["paths"]["/ai/complete"]["post"]
    assert complete["security"] == [{"bearer": []}]
    expected = {
        "200",
        "401",
        "402",
        "403",
        "404",
        "408",
        "409",
        "413",
        "422",
        "429",
        "431",
        "500",
        "503",
        "504",
        "default",
    }
    assert set(complete["responses"]) == expected
    assert "`ai_model_unpriced`" in complete["responses"]["422"]["description"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) is (path not in OPEN)
            assert "400" not in operation["responses"]
            assert "description" not in operation


def test_the_documentation_page_needs_nothing_from_anywhere(plane):
    answer = plane("GET", "/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.body.decode()
    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs)))

    Reader().feed(page)
    tags = {tag for tag, _ in seen}
    assert not tags & {"script", "link", "img", "iframe"}
    links = {attributes["href"] for tag, attributes in seen if tag == "a"}
    targets = {"#" + attributes["id"] for _, attributes in seen if "id" in attributes}
    assert links - {"openapi.json"} <= targets
    for address in ("/ai/complete", "/admin/tenants/{tenant_id}", "/health"):
        assert address in page
