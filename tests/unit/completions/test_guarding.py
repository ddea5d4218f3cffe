"""Guardrails between the attempts of a call: what is blocked is paid for, and what was held back is nobody's answer."""

import msgspec
import pytest

from harness.books import run_on_books
from harness.providers import Collected, Desk, Held, Provider, Streaming, answer, event, lost
from tollhouse.completions.hedging import Hedging
from tollhouse.config import Guardrails
from tollhouse.errors import GuardrailBlocked
from tollhouse.providers.base import Overloaded
from tollhouse.resilience.latency import LatencyQuantile

pytestmark = pytest.mark.usefixtures("on_each_engine")

CAP = 10_000_000
COST = 15_000
KEY = "sk-proj-" + "a1B2" * 8
BLOCK = Guardrails(secrets="block")
USED = event(usage={"input_tokens": 10, "output_tokens": 5})


def run(tmp_path, scenario, providers, guardrails=BLOCK, changes=None):
    async def on_books(books):
        await books.set_tenant(cap=CAP)
        desk = Desk(books, providers, guardrails=guardrails, changes=changes)
        await scenario(desk)
        await desk.pipeline.background.finish(5.0)

    run_on_books(tmp_path, on_books)


async def rows(desk):
    return sorted((row.attempt, row.status, row.cost_nano_usd) for row in await desk.books.rows())


def run_hedged(tmp_path, scenario, *steps):
    latency = LatencyQuantile(0.95)
    for _ in range(100):
        latency.add(0.005)

    async def hedged(desk):
        desk.pipeline._hedging = Hedging(CAP)
        desk.pipeline._hedging._credit = 5.0
        await scenario(desk)

    run(tmp_path, hedged, {"small": Provider(*steps)}, changes={"small": {"latency": latency}})


def test_a_blocked_answer_that_came_first_ends_the_call_for_good(tmp_path):
    slow = Held(answer("late"))

    async def scenario(desk):
        with pytest.raises(GuardrailBlocked) as refused:
            await desk.complete(key="order-7")
        slow.let_go.set()
        await desk.pipeline.background.finish(5.0)
        assert await rows(desk) == [(1, "settled", COST), (2, "settled", COST)]
        with pytest.raises(GuardrailBlocked) as again:
            await desk.complete(key="order-7")
        assert again.value.message == refused.value.message
        assert desk.called == ["small", "small"]

    run_hedged(tmp_path, scenario, slow, answer(KEY))


def test_what_a_slower_attempt_said_blocks_nothing(tmp_path):
    slow = Held(answer(KEY))

    async def scenario(desk):
        served = await desk.complete(key="order-7")
        slow.let_go.set()
        await desk.pipeline.background.finish(5.0)
        assert b"soon" in served.body
        assert (await desk.complete(key="order-7")).body == served.body
        assert await rows(desk) == [(1, "settled", COST), (2, "settled", COST)]

    run_hedged(tmp_path, scenario, slow, answer("soon"))


def test_a_stream_that_breaks_while_all_of_it_is_held_back_is_answered_by_the_fallback(tmp_path):
    # A placeholder that has begun, and nothing else: the caller has seen nothing of it.
    broken = Streaming(event(text="[EMA"), Overloaded("busy", status=503))
    whole = Streaming(event(text="to [EMA"), event(text="IL_1]"), event(finish="stop"), USED)

    async def scenario(desk):
        sink = Collected()
        await desk.stream(sink, {"user_message": "alice@example.com"})
        assert desk.called == ["small", "small", "other"]
        deltas = [
            msgspec.json.decode(line.removeprefix(b"data: ")) for line in sink.data.splitlines() if b"data" in line
        ]
        assert "".join(delta["content"] for delta in deltas if delta.keys() == {"content"}) == "to alice@example.com"

    providers = {"small": Provider(broken), "other": Provider(whole)}
    run(tmp_path, scenario, providers, Guardrails(pii="redact"))


def test_each_attempt_gets_the_redacted_request(tmp_path):
    async def scenario(desk):
        served = await desk.complete({"user_message": "alice@example.com"})
        assert b"to alice@example.com" in served.body
        for provider in desk.providers.values():
            assert provider.received
            assert not any("alice" in str(msgspec.to_builtins(request)) for request in provider.received)

    providers = {"small": Provider(Overloaded("busy", status=503)), "other": Provider(answer("to [EMAIL_1]"))}
    run(tmp_path, scenario, providers, Guardrails(pii="redact"))


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_is_blocked_is_read_to_its_end_and_settled(tmp_path, breaks):
    rest = (lost(),) if breaks else (event(text=" and so on"), event(finish="stop"), USED)
    said = Streaming(event(text="It is "), event(text=KEY), event(text=", it is"), *rest)

    async def scenario(desk):
        sink = Collected()
        await desk.stream(sink, key="order-7")
        assert sink.has_ended
        assert b"It is " in sink.data
        assert b"ai_guardrail_blocked" in sink.data
        assert b"so on" not in sink.data
        assert [status for _, status, _ in await rows(desk)] == ["settled"]
        again = await desk.stream(Collected(), key="order-7")
        assert again is not None
        assert (again.replayed, again.body) == (True, sink.data)

    run(tmp_path, scenario, {"small": Provider(said)})
