"""Those who follow events through an edge: streams, sockets and long polls of real instances."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from harness.edge import Edge
from harness.following import Stream, subjects, target, tell
from harness.service import eventually
from integration.edge.conftest import Front
from integration.test_notifier import Notifier

pytestmark = pytest.mark.engine("postgresql")

READ_TIMEOUT_S = 1


@pytest.fixture(scope="module")
def hasty(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge that gives up on an instance which sends nothing for a second."""
    kind = front.edge.kind
    upstreams = [f"--upstream=127.0.0.1:{each.port}" for each in (front.one, front.other)]
    with Edge(kind, tmp_path_factory.mktemp(f"hasty-{kind}"), *upstreams, f"--read-timeout-s={READ_TIMEOUT_S}") as edge:
        yield edge


def socket(edge: Edge, key: str | None, **parameters: object) -> ClientConnection:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = f"ws://127.0.0.1:{edge.port}{target('/events/ws', **parameters)}"
    return connect(url, additional_headers=headers, proxy=None)


def test_who_follows_in_silence_is_not_cut_off(front: Front, hasty: Edge):
    tenant, key = front.tenant_with_key()
    with Stream(hasty, key=key) as stream, socket(hasty, key) as ws:
        # Heartbeats of the stream, which tell no event, are what time passes by here.
        beats = b""
        while beats.count(b"\n\n") < 2.5 * READ_TIMEOUT_S / 0.3:
            beats += stream.answer.read1(65536)
        assert b"data:" not in beats
        tell(front.one, "after a silence", tenant_id=tenant)
        (event,) = stream.take(1)
        assert event["subject"] == "after a silence"
        assert json.loads(ws.recv(20)) == event


def test_events_pass_one_by_one(front: Front):
    tenant, key = front.tenant_with_key()
    with Stream(front.edge, key=key) as stream, socket(front.edge, key) as ws:
        assert stream.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        for number in range(3):
            # Each is there before the next one is written: nothing is collected on the way.
            tell(front.one, number, tenant_id=tenant)
            assert subjects(stream.take(1)) == subjects([json.loads(ws.recv(20))]) == [str(number)]


def test_a_client_that_comes_back_through_the_edge_misses_nothing(front: Front):
    tenant, key = front.tenant_with_key()
    with Stream(front.edge, key=key) as stream:
        tell(front.one, "a", "b", tenant_id=tenant)
        assert subjects(stream.take(2)) == ["a", "b"]
    tell(front.one, "c", tenant_id=tenant)
    # Whichever instance the edge leads to.
    for _ in range(4):
        with Stream(front.edge, key=key, after=0, last=stream.last_event_id) as again:
            assert subjects(again.take(1)) == ["c"]
        with socket(front.edge, key, after=stream.last_event_id) as ws:
            assert json.loads(ws.recv(20))["subject"] == "c"


def test_a_browser_follows_through_the_edge_with_a_token_that_is_in_no_log(front: Front):
    tenant, key = front.tenant_with_key()
    token = front.edge.request("POST", "/events/token", {"user_id": 7}, key=key).json["token"]
    with Stream(front.edge, key=None, token=token) as stream, socket(front.edge, None, token=token) as ws:
        tell(front.one, "of another", tenant_id=tenant, user_id=8)
        tell(front.one, "theirs", tenant_id=tenant, user_id=7)
        assert subjects(stream.take(1)) == subjects([json.loads(ws.recv(20))]) == ["theirs"]
    polled = front.edge.request("GET", target(token=token, after=0, wait_s=0), Accept="application/json")
    assert subjects(polled.json["events"]) == ["theirs"]
    assert token not in front.edge.log()


def test_followers_are_led_to_the_processes_that_tell_events(front: Front, tmp_path: Path):
    (tmp_path / "notifier").mkdir()
    (tmp_path / "edge").mkdir()
    tenant, key = front.tenant_with_key()
    with (
        Notifier(tmp_path / "notifier", "[events]\nheartbeat_s = 0.3\n", url=front.one.database_url) as notifier,
        Edge(
            front.edge.kind,
            tmp_path / "edge",
            f"--upstream=127.0.0.1:{front.one.port}",
            f"--feature-upstream=stub={front.stub.address}",
            f"--events-upstream=127.0.0.1:{notifier.port}",
        ) as edge,
    ):
        eventually(lambda: edge.request("GET", target(wait_s=0), key=key, Accept="application/json").status == 200)
        with Stream(edge, key=key) as stream, socket(edge, key, tenant_id=tenant) as ws:
            assert "tollhouse_event_followers 2.0" in notifier.request("GET", "/metrics").body.decode()
            tell(front.one, "told by it", tenant_id=tenant)
            assert subjects(stream.take(1)) == subjects([json.loads(ws.recv(20))]) == ["told by it"]
        # A feature's instances take its calls, and its followers go where all go.
        assert edge.request("GET", target(wait_s=0), key=key, x_feature_slug="stub", Accept="application/json").json
        token = edge.request("POST", "/events/token", {}, key=key)
        assert (token.status, token.json["token"][:3]) == (200, "et_")
        # All else goes to the instance, since a notifier serves nothing else.
        assert edge.request("GET", f"/ai/usage?tenant_id={tenant}", key=key).status == 200
        assert edge.request("GET", "/admin/tenants", key=key).status == 404


def test_a_long_poll_waits_at_an_instance(front: Front):
    tenant, key = front.tenant_with_key()
    start = front.edge.request("GET", target(wait_s=0), key=key, Accept="application/json").json
    tell(front.one, "awaited", tenant_id=tenant)
    address = target(wait_s=20, after=start["position"])
    reply = front.edge.request("GET", address, key=key, Accept="application/json")
    assert subjects(reply.json["events"]) == ["awaited"]


def test_who_may_not_follow_is_told_so_by_the_edge(front: Front):
    for key in (None, "th_unknown"):
        reply = front.edge.request("GET", "/events", key=key)
        assert (reply.status, reply.json["error"]) == (401, "ai_unauthorized")
        with pytest.raises(InvalidStatus) as refused, socket(front.edge, key):
            pass
        assert refused.value.response.status_code == 401
