"""``tollhouse webhook``: endpoints and deliveries from the command line, beside a running service."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import Cli, without_logs
from harness.engines import Engine
from harness.following import tell
from harness.receiver import Receiver
from harness.service import Service, eventually, serving

CONFIG = '[webhooks]\nallow_networks = ["127.0.0.0/8"]\npoll_s = 0.05\n'


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    with without_logs():
        yield


@pytest.fixture(scope="module")
def service(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("webhook-commands"), CONFIG) as service:
        yield service


@pytest.fixture
def cli(service: Service) -> Cli:
    return Cli(service.config_file)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def is_signed_by(secret: str, received) -> bool:
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return f"v1,{expected}" in received.headers["webhook-signature"].split(" ")


def test_an_endpoint_is_made_tested_and_deleted(service, cli, receiver):
    tenant = str(service.tenant())
    said = cli("webhook", "create", f"{receiver.url}/hook", "--tenant", tenant, "--type", "ai.job.completed")
    endpoint_id, secret = said.split()[1], said.splitlines()[2].strip()
    assert said == (
        f"Endpoint {endpoint_id} is made. It signs with:\n\n    {secret}\n\n"
        "Keep it where the receiver finds it: it is not shown again.\n"
    )

    (row,) = cli("webhook", "list", "--tenant", tenant).splitlines()[1:]
    assert row.split()[:6] == [endpoint_id, tenant, f"{receiver.url}/hook", "ai.job.completed", "yes", "0"]

    assert cli("webhook", "test", endpoint_id) == "Delivered: the endpoint answered 200.\n"
    (received,) = receiver.received
    assert (received.path, received.json["type"]) == ("/hook", "ai.webhook.test")
    assert is_signed_by(secret, received)

    rotated = cli.json("webhook", "rotate", endpoint_id)
    assert rotated["endpoint"]["previous_secret_until"] is not None
    assert cli.json("webhook", "test", endpoint_id)["state"] == "delivered"
    assert all(is_signed_by(each, receiver.received[1]) for each in (secret, rotated["secret"]))

    assert cli("webhook", "delete", endpoint_id) == f"Endpoint {endpoint_id} is deleted.\n"
    assert cli.json("webhook", "list", "--tenant", tenant)["endpoints"] == []


def test_an_endpoint_that_does_not_take_it_is_told_as_it_is(service, cli, receiver):
    endpoint_id = cli.json("webhook", "create", receiver.url)["endpoint"]["endpoint_id"]
    receiver.answer = lambda _: (500, {})
    refusal = cli.refusal("webhook", "test", endpoint_id)
    assert "the test event did not arrive: HTTP 500; it is tried again at 2" in refusal
    receiver.answer = lambda _: (410, {})
    assert "did not arrive: HTTP 410" in cli.refusal("webhook", "test", endpoint_id)
    assert "is switched off" in cli.refusal("webhook", "test", endpoint_id)
    assert cli("webhook", "enable", endpoint_id) == f"Endpoint {endpoint_id} is switched on.\n"
    assert cli.json("webhook", "disable", endpoint_id)["is_enabled"] is False
    assert "there is no webhook endpoint whe_x" in cli.refusal("webhook", "test", "whe_x")
    cli("webhook", "delete", endpoint_id)


def test_deliveries_are_listed_tried_anew_and_dropped(service, cli, receiver):
    tenant = service.tenant()
    receiver.answer = lambda _: (500, {})
    endpoint_id = cli.json("webhook", "create", receiver.url, "--tenant", str(tenant))["endpoint"]["endpoint_id"]
    tell(service, "a", "b", tenant_id=tenant)
    of_it = ("webhook", "deliveries", "--endpoint", endpoint_id)
    failed = eventually(lambda: [each for each in cli.json(*of_it)["deliveries"] if each["last_status"] == 500])
    assert "HTTP 500" in cli(*of_it)
    receiver.answer = lambda _: (200, {})
    first = failed[0]["delivery_id"]
    assert cli("webhook", "retry", first, endpoint_id) == (
        f"{first}: 1 delivery is tried anew.\n{endpoint_id}: 0 deliveries are tried anew.\n"
    )
    eventually(lambda: cli.json(*of_it, "--state", "delivered")["deliveries"])
    for each in cli.json(*of_it, "--state", "waiting")["deliveries"]:
        assert cli("webhook", "drop", each["delivery_id"]) == f"{each['delivery_id']} is dropped.\n"
    assert cli(*of_it, "--state", "waiting") == "No such deliveries.\n"


def test_without_a_service_that_sends_the_test_event_waits(engine: Engine, tmp_path: Path):
    service = Service(tmp_path, CONFIG)
    cli = Cli(service.config_file)
    endpoint_id = cli.json("webhook", "create", "https://hooks.example.com/")["endpoint"]["endpoint_id"]
    result = cli.run("webhook", "test", endpoint_id, "--wait-s", "0", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["state"] == "waiting"
    assert "was not tried within 0 s; it is sent by `tollhouse serve` or `tollhouse notifier`" in result.stderr
