"""Webhooks of a running service: made over HTTP, sent, and looked after."""

import base64
import hashlib
import hmac
import re

import pytest
import sqlalchemy as sa

from harness.following import tell, writing
from harness.receiver import Receiver
from harness.service import eventually, serving

CONFIG = '[webhooks]\nallow_networks = ["127.0.0.0/8"]\npoll_s = 0.05\n'


@pytest.fixture(scope="module")
def service(engine, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("webhooks"), CONFIG) as service:
        yield service


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def new_webhook(service, url, **wanted):
    return service.admin("POST", "/admin/webhooks", {"url": url, **wanted})


def deliveries(service, endpoint_id, state):
    path = f"/admin/webhook-deliveries?endpoint_id={endpoint_id}&state={state}"
    return service.admin("GET", path)["deliveries"]


def test_an_event_is_sent_and_what_became_of_it_is_shown(service, receiver):
    tenant = service.tenant()
    made = new_webhook(service, f"{receiver.url}/hook", tenant_id=tenant, types=["ai.job.completed"])
    endpoint_id = made["endpoint"]["endpoint_id"]
    assert service.admin("GET", f"/admin/webhooks?tenant_id={tenant}")["endpoints"] == [made["endpoint"]]
    assert "secret" not in service.admin("GET", f"/admin/webhooks/{endpoint_id}")
    tell(service, "job_1", tenant_id=tenant)
    (received,) = receiver.wait_for(1)
    key = base64.b64decode(made["secret"].removeprefix("whsec_"))
    headers = received.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert received.json["subject"] == "job_1"
    (delivery,) = eventually(lambda: deliveries(service, endpoint_id, "delivered"))
    assert (delivery["tenant_id"], delivery["event_id"], delivery["attempts"]) == (tenant, received.json["id"], 1)
    assert delivery["last_status"] == 200
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'tollhouse_webhook_tries_total{outcome="delivered"} 1.0' in metrics
    assert "tollhouse_event_followers 0.0" in metrics


def test_a_failed_one_waits_and_is_tried_anew_or_dropped_when_somebody_says_so(service, receiver):
    tenant = service.tenant()
    receiver.answer = lambda _: (500, {})
    endpoint_id = new_webhook(service, receiver.url, tenant_id=tenant)["endpoint"]["endpoint_id"]
    tell(service, "a", "b", tenant_id=tenant)
    receiver.wait_for(1)
    found = eventually(lambda: [each for each in deliveries(service, endpoint_id, "waiting") if each["last_status"]])
    receiver.answer = lambda _: (200, {})
    service.admin("POST", f"/admin/webhook-deliveries/{found[0]['delivery_id']}/retry")
    eventually(lambda: deliveries(service, endpoint_id, "delivered"))
    for each in deliveries(service, endpoint_id, "waiting"):
        service.admin("DELETE", f"/admin/webhook-deliveries/{each['delivery_id']}")
    assert deliveries(service, endpoint_id, "waiting") == []


def test_every_change_is_in_the_audit_log_and_no_secret(service, receiver):
    tenant = service.tenant()
    made = new_webhook(service, f"{receiver.url}/?key=hush-4711", tenant_id=tenant)
    path = f"/admin/webhooks/{made['endpoint']['endpoint_id']}"
    assert service.admin("PATCH", path, {"is_enabled": False})["is_enabled"] is False
    rotated = service.admin("POST", f"{path}/rotate")
    service.admin("POST", f"{path}/retry")
    service.admin("DELETE", path)
    entries = service.admin("GET", f"/admin/audit?tenant_id={tenant}&limit=100")["entries"][::-1]
    assert [each["action"] for each in entries if each["action"].startswith("webhook.")] == [
        "webhook.created",
        "webhook.updated",
        "webhook.secret_rotated",
        "webhook.dead_retried",
        "webhook.deleted",
    ]
    for secret in (made["secret"], rotated["secret"], "hush-4711"):
        assert secret not in str(entries)
    assert service.request("GET", path).code == "ai_not_found"


def test_what_is_sent_is_sent_after_a_defect_too_which_health_and_metrics_tell(service, receiver):
    tenant = service.tenant()
    endpoint_id = new_webhook(service, receiver.url, tenant_id=tenant)["endpoint"]["endpoint_id"]

    def change_types(text):
        change = sa.text("UPDATE ai_webhook_endpoints SET types = :types WHERE endpoint_id = :id")
        with writing(service) as connection:
            connection.execute(change, {"types": text, "id": endpoint_id})

    # What no version has ever written there, and none expects.
    change_types("[")
    tell(service, "job_1", tenant_id=tenant)
    assert eventually(lambda: service.request("GET", "/health").json.get("unsound_duties")) == ["webhooks"]
    assert service.request("GET", "/health").json["status"] == "degraded"
    metrics = service.request("GET", "/metrics").body.decode()
    assert re.search(r'^tollhouse_duty_defects_total\{duty="webhooks"\} [1-9]', metrics, re.MULTILINE)
    assert 'tollhouse_duty_defects_total{duty="event_feed"} 0.0' in metrics
    assert receiver.received == []
    change_types(None)
    eventually(lambda: [each.json["subject"] for each in receiver.received] == ["job_1"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"url": "ftp://example.com"},
            "url: the URL must look like https://host[:port][/path]: its scheme is not http or https",
        ),
        ({"url": "https://user:pw@example.com/"}, "url: the URL must not contain a user or password"),
        ({"url": "https://10.0.0.1/hook"}, "url: it leads into a private network"),
        ({}, "url: is required"),
        ({"url": "https://example.com", "types": []}, "types: expected `array` of length >= 1"),
        ({"url": "https://example.com", "secret": "x"}, "secret: unknown field; known are url, tenant_id, types"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(service, body, message):
    reply = service.request("POST", "/admin/webhooks", body)
    assert (reply.status, reply.code) == (422, "ai_invalid_request")
    assert reply.message.startswith(message)


def test_webhooks_are_for_super_admins(service):
    key = service.new_key()["key"]
    for method, path in [("GET", "/admin/webhooks"), ("POST", "/admin/webhooks"), ("GET", "/admin/webhook-deliveries")]:
        assert service.request(method, path, key=key).status == 403
    for method, path in [("POST", "/admin/webhooks/x/rotate"), ("DELETE", "/admin/webhook-deliveries/x")]:
        assert service.request(method, path).code == "ai_not_found"
