"""Streams whose callers leave, whose provider breaks off, and whose service dies: each is paid for once, or held."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence

import msgspec
import pytest
import uvloop

from harness.faults import Figures, billed_nano_usd, set_cap
from harness.reckoning import number_of
from harness.service import NO_BREAKER, Service, TenantId, eventually, limits, model, provider
from harness.streams import CLIENTS, Caller, Callers, streamed_call
from tollhouse.testing import Behaviour, FakeProvider
from tollhouse.testing.behaviour import Format

# Each client's format, relayed to the provider that speaks it, and translated.
MODELS = {"native": "claude", "chat": "gpt", "responses": "gpt", "messages": "claude", "gemini": "gemini"}
TRANSLATED = {"native": "gemini", "chat": "claude", "responses": "gemini", "messages": "gpt", "gemini": "claude"}
WORDS = " ".join(f"word{number}" for number in range(30))
# The models under this prefix are given up after so long a pause.
IMPATIENT, PAUSE_S = "impatient-", 3.0
KINDS: dict[str, Format] = {"claude": "anthropic", "gpt": "openai", "gemini": "gemini"}
# Every format has begun its text by then.
SOME_EVENTS = 8
# The numbers of each client's calls; all have as many digits, so that their ceilings are equal.
_MOST = 1000
_FIRST = {client: _MOST * number for number, client in enumerate(CLIENTS, start=1)}


@pytest.fixture(scope="module")
def service(engine, _fake, tmp_path_factory) -> Iterator[Service]:
    config = [limits(), NO_BREAKER]
    for prefix, timeout_s in (("", 60.0), (IMPATIENT, PAUSE_S)):
        for named, kind in KINDS.items():
            keys = {"has_responses": True} if kind == "openai" else {}
            base_url = _fake.base_url(kind)
            config += [
                provider(prefix + kind, kind, base_url, max_connections=3000, timeout_s=timeout_s, **keys),
                model(prefix + named, prefix + kind, upstream_model=named),
            ]
    server = "max_connections = 3000"
    with Service(tmp_path_factory.mktemp("service"), "".join(config), server=server) as service:
        yield service


def figures(
    service: Service,
    fake: FakeProvider,
    tenant: TenantId,
    callers: Sequence[Caller],
    *,
    numbers: Container[int] = range(10_000),
    is_told: bool = True,
) -> Figures:
    """Hold receipts, callers and ledger against each other.

    Args:
        numbers: those of the tenant's calls.
        is_told: the provider told what it billed, so that rows that do not say so are lost.
    """
    rows = service.rows(tenant_id=tenant)
    row_of = {int(row["user_id"]): row for row in rows}
    receipts = [receipt for receipt in fake.receipts() if receipt.billed and number_of(receipt) in numbers]
    rows_of = Counter(int(row["user_id"]) for row in rows)
    receipts_of = Counter(map(number_of, receipts))
    lost = sum(number not in rows_of for number in receipts_of)
    if is_told:
        lost += sum(not _is_as_billed(row_of[number_of(each)], each) for each in receipts if number_of(each) in row_of)
    budget = service.budget(tenant)
    spent = budget["posted_nano_usd"] + budget["reserved_nano_usd"]
    assert spent == sum(row["cost_nano_usd"] for row in rows)
    billed = sum(map(billed_nano_usd, receipts))
    return Figures(
        overspend_nano_usd=max(0, spent - budget["cap_nano_usd"], billed - budget["cap_nano_usd"] if is_told else 0),
        rows_lost=lost,
        rows_doubled=sum(times - 1 for times in (*rows_of.values(), *receipts_of.values())),
        false_402_percent=0.0,
        left_open=len(service.open_reservations()),
        findings=service.findings(),
        further={
            "streams": len(callers),
            "whole": sum(each.is_whole for each in callers),
            "receipts": len(receipts),
            "settled": sum(row["status"] == "settled" for row in rows),
            "estimated": sum(row["usage_source"] == "estimated" for row in rows if row["status"] == "settled"),
            "unknown": sum(row["status"] == "unknown" for row in rows),
        },
    )


def _is_as_billed(row, receipt) -> bool:
    return (row["status"], row["usage_source"], row["input_tokens"], row["output_tokens"]) == (
        "settled",
        "reported",
        receipt.input_tokens,
        receipt.output_tokens,
    )


# Callers who leave.


def cut_by_their_callers(service: Service, fake: FakeProvider, count: int, translated: dict[str, str]) -> None:
    moments = random.Random(11)
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(content=WORDS, delay_s=0.01, chunk_delay_s=0.002))
    clients = [CLIENTS[number % len(CLIENTS)] for number in range(count)]
    calls = [streamed_call(client, translated[client], number, tenant, key) for number, client in enumerate(clients)]
    # From before the first event to after the last.
    leave_after = [moments.choice([0, moments.randrange(1, 34), moments.randrange(30, 60)]) for _ in calls]

    async def scenario() -> list[Caller]:
        callers = Callers([service.port])
        await callers.send(calls, leave_after=leave_after)
        return await callers.ended()

    callers = uvloop.run(scenario())
    assert {caller.status for caller in callers} <= {200, None}
    eventually(lambda: len(service.rows(tenant_id=tenant)) == len(fake.receipts()), timeout_s=60)
    assert not service.open_reservations()
    found = figures(service, fake, tenant, callers)
    before = sum(not caller.events for caller in callers)
    kind = "translated" if translated is TRANSLATED else "relayed"
    found.check(f"{count} streams cut by their callers, {kind}", left_before_the_first_event=before)
    assert 0 < before < count
    assert 0 < sum(caller.is_whole for caller in callers) < count
    assert (found.further["estimated"], found.further["unknown"]) == (0, 0)


@pytest.mark.parametrize("translated", [MODELS, TRANSLATED], ids=["relayed", "translated"])
def test_streams_cut_by_their_callers_are_paid_as_billed(service, fake, translated):
    cut_by_their_callers(service, fake, 100, translated)


@pytest.mark.slow
@pytest.mark.parametrize("translated", [MODELS, TRANSLATED], ids=["relayed", "translated"])
def test_1000_streams_cut_by_their_callers_are_paid_as_billed(service, fake, translated):
    cut_by_their_callers(service, fake, 1000, translated)


# A provider that breaks off.

BREAKS = {
    "ends early": Behaviour(cut_after_events=SOME_EVENTS, cut="eof"),
    "closes": Behaviour(cut_after_events=SOME_EVENTS, cut="close"),
    "resets": Behaviour(cut_after_events=SOME_EVENTS, cut="reset"),
    "errs": Behaviour(error_after_events=SOME_EVENTS),
    "hangs": Behaviour(hang_after_events=SOME_EVENTS),
}


def broken_off(service: Service, fake: FakeProvider, what: str, to: dict[str, str], count: int) -> None:
    """Have streams of every client's format broken off, each format at the edge of a budget of its own."""
    key = service.new_key()["key"]
    ceilings = _ceilings(service, fake, to, key)
    tenants = {client: service.tenant() for client in CLIENTS}
    for client, tenant in tenants.items():
        # All at once, only so many fit: what is estimated comes later, and to less.
        set_cap(service, tenant, count // 2 * ceilings[client] + 1)
    fake.behave(msgspec.structs.replace(BREAKS[what], content=WORDS, chunk_delay_s=0.02))

    async def scenario() -> list[Caller]:
        callers = Callers([service.port])
        for client, tenant in tenants.items():
            start = _FIRST[client]
            calls = [
                streamed_call(client, IMPATIENT + to[client], start + number, tenant, key) for number in range(count)
            ]
            await callers.send(calls, start=start)
        return await callers.ended()

    callers = uvloop.run(scenario())
    eventually(lambda: not service.open_reservations())
    kind = "translated" if to is TRANSLATED else "relayed"
    for client, tenant in tenants.items():
        own = [caller for caller in callers if 0 <= caller.number - _FIRST[client] < _MOST]
        numbers = {caller.number for caller in own}
        found = figures(service, fake, tenant, own, numbers=numbers, is_told=False)
        refused = sum(caller.status == 402 for caller in own)
        found.check(f"provider {what} in a stream, {client} {kind}", refused_402=refused)
        served = [caller for caller in own if caller.status == 200]
        assert len(served) >= count // 2
        assert len(served) + refused == count
        for caller in served:
            assert caller.is_whole, "the body ends as it should, whatever has become of what it says"
            assert caller.failure is not None, caller.events[-1]
            assert len(caller.events) > 1, "something of the answer came before"
        assert found.further["settled"] == found.further["estimated"] == len(served)
        budget = service.budget(tenant)
        assert budget["reserved_nano_usd"] == 0 < budget["posted_nano_usd"] < budget["cap_nano_usd"]


def _ceilings(service: Service, fake: FakeProvider, to: dict[str, str], key: str) -> dict[str, int]:
    """Return what a call of each client can cost: what it is held at when its outcome is unknown."""
    fake.behave(Behaviour(reset="before_answer"))
    tenants = {client: service.tenant() for client in CLIENTS}

    async def one_each() -> None:
        callers = Callers([service.port])
        for client, tenant in tenants.items():
            await callers.send([streamed_call(client, IMPATIENT + to[client], _FIRST[client], tenant, key)])
        await callers.ended()

    uvloop.run(one_each())
    fake.reset()
    rows = {client: service.rows(tenant_id=tenant) for client, tenant in tenants.items()}
    assert [row["status"] for each in rows.values() for row in each] == ["unknown"] * len(CLIENTS)
    return {client: int(row["cost_nano_usd"]) for client, (row,) in rows.items()}


@pytest.mark.parametrize("to", [MODELS, TRANSLATED], ids=["relayed", "translated"])
@pytest.mark.parametrize("what", BREAKS)
def test_a_stream_that_its_provider_breaks_off_says_so_and_is_estimated(service, fake, what, to):
    broken_off(service, fake, what, to, 20)


@pytest.mark.slow
@pytest.mark.parametrize("to", [MODELS, TRANSLATED], ids=["relayed", "translated"])
@pytest.mark.parametrize("what", BREAKS)
def test_1000_streams_that_their_provider_breaks_off(service, fake, what, to):
    broken_off(service, fake, what, to, 200)


# A service that dies.


def test_streams_under_way_at_a_kill_are_held_at_their_ceilings(service, fake):
    count = 200
    tenant, key = service.tenant(), service.new_key()["key"]
    fake.behave(Behaviour(content=WORDS, hang_after_events=SOME_EVENTS))
    clients = [CLIENTS[number % len(CLIENTS)] for number in range(count)]
    calls = [streamed_call(client, MODELS[client], number, tenant, key) for number, client in enumerate(clients)]

    async def scenario() -> list[Caller]:
        callers = Callers([service.port])
        await callers.send(calls)
        await callers.all_have_begun()
        await asyncio.to_thread(service.kill)
        return await callers.ended()

    callers = uvloop.run(scenario())
    assert {caller.status for caller in callers} == {200}
    assert not any(caller.is_whole for caller in callers)
    started_s = time.monotonic()
    service.start()
    eventually(lambda: not service.open_reservations())
    held_s = time.monotonic() - started_s
    found = figures(service, fake, tenant, callers, is_told=False)
    found.check(f"kill -9 with {count} streams under way", recovered_s=held_s)
    assert (found.further["receipts"], found.further["unknown"], found.further["settled"]) == (count, count, 0)
    budget = service.budget(tenant)
    assert budget["posted_nano_usd"] == 0
    assert budget["reserved_nano_usd"] > 0
