"""Instances that are down, die or hang: nobody waits for nothing, and no call is sent twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.edge import KINDS, Edge, Kind
from harness.load import Outcome, until
from harness.reckoning import number_of, numbered
from harness.service import Service, TenantId, eventually
from integration.edge.conftest import Front, configuration
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.engine("postgresql")

CALLERS = 8


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_call_whose_instance_dies_is_not_sent_to_another(front: Front, method: str):
    for stub in front.pair:
        stub.received.clear()
    told_to_retry = {"x_envoy_retry_on": "5xx,reset,connect-failure", "x_envoy_max_retries": "3"}

    replies = [
        front.at_stub(method, f"/ai/jobs/{number}", b"{}", "pair", x_stub="dies", **told_to_retry)
        for number in range(2)
    ]

    for reply in replies:
        assert reply.status == 502
        assert reply.code == "ai_outcome_unknown"
        assert "retry-after" not in reply.headers
        assert reply.headers["x-should-retry"] == "false"
    seen = Counter(each.target for stub in front.pair for each in stub.received)
    assert seen == {"/ai/jobs/0": 1, "/ai/jobs/1": 1}


def test_a_call_that_could_not_be_sent_is_sent_to_another(front: Front):
    front.stub.received.clear()

    replies = [front.at_stub("POST", f"/ai/jobs/{number}", b"{}", "half") for number in range(10)]

    assert [reply.status for reply in replies] == [200] * 10
    assert [each.target for each in front.stub.received] == [f"/ai/jobs/{number}" for number in range(10)]


def test_without_any_instance_there_is_an_answer_at_once(front: Front):
    for _ in range(3):
        reply = front.at_stub("POST", "/ai/complete", b"{}", "down")

        assert reply.status == 503
        assert reply.code == "ai_unavailable"
        assert reply.headers["retry-after"] == "2"
        assert "x-should-retry" not in reply.headers


def test_silence_ends_and_heartbeats_do_not(front: Front, tmp_path: Path):
    options = [f"--upstream=127.0.0.1:{front.one.port}", f"--feature-upstream=stub={front.stub.address}"]
    with Edge(front.edge.kind, tmp_path, "--read-timeout-s", "1", *options) as edge:
        asked = {"key": front.key, "x_feature_slug": "stub"}
        silent = edge.request("POST", "/ai/jobs", b"{}", x_stub="silent", **asked)
        beating = edge.request("GET", "/events", x_stub="beats", **asked)

    assert silent.status == 504
    assert silent.code == "ai_timeout"
    assert silent.headers["x-should-retry"] == "false"
    assert beating.body == b": beat..\n" * 8


@pytest.mark.usefixtures("engine")
def test_an_instance_that_is_killed_under_load(fake: FakeProvider, tmp_path: Path):
    """What fails is what was in flight there; nothing is sent twice, and the other instance takes what follows."""
    for name in ("one", "other", *KINDS):
        (tmp_path / name).mkdir()
    config = configuration(fake)
    one = Service(tmp_path / "one", config).start()
    other = Service(tmp_path / "other", config, url=one.database_url).start()
    tenant, key = one.tenant(), one.new_key()["key"]
    eventually(lambda: other.request("GET", "/edge/authorize", key=key).status == 200)
    fake.reset()
    fake.behave(Behaviour(delay_s=0.05))
    options = [*(f"--upstream=127.0.0.1:{each.port}" for each in (one, other)), "--fail-timeout-s=1"]
    with ExitStack() as stack:
        edges = [stack.enter_context(Edge(kind, tmp_path / kind, *options)) for kind in KINDS]

        async def stop() -> None:
            await _receipts(fake, 200)
            await asyncio.to_thread(one.kill)
            await _receipts(fake, 600)

        ports = [edge.port for edge in edges]
        # Half of the callers call through either edge, and the parity of a call's number tells through which.
        outcomes = asyncio.run(_through(ports, stop, tenant, key))
        for edge, half in zip(edges, outcomes, strict=True):
            _check(half, fake, edge.kind)
        doubled = [number for number, times in Counter(map(number_of, fake.receipts())).items() if times > 1]
        assert doubled == []

        # All are down, and then one is back.
        other.kill()
        call = body_for(tenant, model="m")
        for edge in edges:
            down = edge.request("POST", "/ai/complete", call, key=key)
            assert down.status == 503
            assert down.code == "ai_unavailable"
            assert "retry-after" in down.headers
        other.config_file.write_text(other.config_file.read_text().replace("port = 0", f"port = {other.port}"))
        with other:
            for edge in edges:
                eventually(lambda: edge.request("POST", "/ai/complete", call, key=key).status == 200)  # noqa: B023
    fake.reset()


async def _through(
    ports: Sequence[int], stop: Callable[[], Awaitable[object]], tenant: TenantId, key: str
) -> list[list[Outcome]]:
    """Call through several edges until told to stop; return what became of the calls through each."""
    stopped = asyncio.Event()

    async def one_edge(index: int, port: int) -> list[Outcome]:
        requests = ((number, request) for number, request in numbered(tenant, key) if number % len(ports) == index)
        return await until(stopped.wait, port, requests, callers=CALLERS)

    async def end() -> None:
        await stop()
        stopped.set()

    *outcomes, _ = await asyncio.gather(*(one_edge(*each) for each in enumerate(ports)), end())
    return [each for each in outcomes if each is not None]


async def _receipts(fake: FakeProvider, more: int) -> None:
    goal = len(fake.receipts()) + more
    while len(fake.receipts()) < goal:
        await asyncio.sleep(0.02)


def _check(outcomes: list[Outcome], fake: FakeProvider, kind: Kind) -> None:
    statuses = Counter(outcome.status for outcome in outcomes)
    asked = Counter(map(number_of, fake.receipts()))
    answered = Counter(outcome.number for outcome in outcomes if outcome.status == 200)
    failed = len(outcomes) - statuses[200]
    share = f"{failed} of {len(outcomes)} calls failed ({failed / len(outcomes):.2%})"
    doubled = sum(asked[outcome.number] > 1 for outcome in outcomes)
    print(f"\n{kind}: when an instance was killed, {share}: {dict(statuses)}; sent twice: {doubled}")
    assert set(answered.values()) == {1}
    assert set(answered) <= set(asked)
    # No more than there are callers can have been in flight; the edge passes all others on.
    assert failed <= CALLERS
    for outcome in outcomes:
        if outcome.status != 200:
            assert (outcome.status, outcome.json["error"]) in {(502, "ai_outcome_unknown"), (503, "ai_unavailable")}
        if outcome.status == 503:
            # It may be sent again, so it must not have been carried out.
            assert asked[outcome.number] == 0
