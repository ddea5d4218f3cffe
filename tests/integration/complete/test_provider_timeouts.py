"""Providers that are slow to connect, to begin their answer, or to end it: which timeout ends what."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.calls import body_for
from harness.service import Service, limits, model, provider, serving
from tollhouse.testing import Behaviour, FakeProvider

# Providers are waited for in the same way wherever the books are.
pytestmark = pytest.mark.engine("sqlite")

# Far from each other, so that a busy machine does not take the one for the other.
SHORT_S = 0.2
PROMPT_S = 2.0
SLOW_BODY_S = 2.5
NEVER_S = 30.0
# Below the default of connect_timeout_s.
CALL_TIMEOUT_S = 4.0


class SlowBody(BaseHTTPRequestHandler):
    """Sends the head of a chat completion at once, and its body after a while."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "at last"}
        usage = {"prompt_tokens": 30, "completion_tokens": 2}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps({"choices": choices, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.flush()
        time.sleep(SLOW_BODY_S)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests' output is not for requests that went well."""


@pytest.fixture(scope="module")
def slow_body_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowBody) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def mute_url() -> Iterator[str]:
    """An address where connections come about, but nobody speaks TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    return _fake


@pytest.fixture(scope="module")
def service(
    _fake: FakeProvider, slow_body_url: str, mute_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    config = "".join([
        provider("hasty", "openai", _fake.base_url("openai"), first_byte_timeout_s=SHORT_S),
        provider("patient", "openai", _fake.base_url("openai")),
        provider("leisurely", "openai", slow_body_url, first_byte_timeout_s=PROMPT_S),
        provider("mute", "openai", mute_url, connect_timeout_s=SHORT_S),
        model("hasty", "hasty", fallbacks=["patient"]),
        model("patient", "patient"),
        model("leisurely", "leisurely"),
        model("mute", "mute", fallbacks=["patient"]),
        limits(call_timeout_s=60),
    ])  # fmt: skip
    with serving(tmp_path_factory.mktemp("timeouts"), config) as running:
        yield running


def test_an_answer_that_does_not_begin_in_time_is_504_and_held_at_its_ceiling(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=NEVER_S))

    reply = service.complete(body_for(tenant, model="hasty"))

    assert (reply.status, reply.code) == (504, "ai_timeout")
    assert "did not begin to answer in time" in reply.message
    assert "its ceiling stays counted against the budget" in reply.message
    assert [receipt.model for receipt in fake.receipts()] == ["hasty"], "a fallback could be billed as well"
    (row,) = service.rows(tenant_id=tenant)
    assert (row["status"], row["usage_source"], row["total_tokens"]) == ("unknown", "none", 0)
    budget = service.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (0, row["cost_nano_usd"])
    assert row["cost_nano_usd"] > 0


def test_without_that_limit_a_late_answer_is_waited_for(service, fake):
    tenant = service.tenant()
    fake.behave(Behaviour(delay_s=2 * SHORT_S))

    assert service.complete(body_for(tenant, model="patient")).status == 200

    assert [row["status"] for row in service.rows(tenant_id=tenant)] == ["settled"]


def test_an_answer_that_began_in_time_may_end_late(service):
    tenant = service.tenant()

    reply = service.complete(body_for(tenant, model="leisurely"))

    assert (reply.status, reply.json["content"]) == (200, "at last")
    assert [row["status"] for row in service.rows(tenant_id=tenant)] == ["settled"]


def test_a_provider_that_cannot_be_connected_to_in_time_costs_nothing_and_its_fallback_answers(service, fake):
    tenant = service.tenant()

    reply = service.complete(body_for(tenant, model="mute", timeout_s=CALL_TIMEOUT_S))

    assert (reply.status, reply.json["model"]) == (200, "patient")
    assert [(row["status"], row["model"]) for row in service.rows(tenant_id=tenant)] == [("settled", "patient")]
    assert service.budget(tenant)["reserved_nano_usd"] == 0
