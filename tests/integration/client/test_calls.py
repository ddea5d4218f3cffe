"""The client library before a real Tollhouse: the provider's receipts and the ledger say how often a call was paid."""

import asyncio
import socket
import threading
from decimal import Decimal

import pytest

from harness.client_calls import ANSWER
from harness.scripted import ScriptedServer
from harness.service import eventually
from tollhouse.client import AsyncClient, CallOptions, Client, Completion, Delta, Tokens, errors
from tollhouse.testing import Behaviour

# What a client makes of answers does not depend on where the books are.
pytestmark = pytest.mark.engine("sqlite")
CALL: CallOptions = {"model": "m", "user_message": "When does it open?", "max_tokens": 100}
KEYED: CallOptions = {**CALL, "idempotency_key": "job-1"}


def test_a_call_and_its_repetition(caller, api):
    told = caller.told()
    first = api.complete(**CALL, user_id=101)
    assert first.content == ANSWER
    assert (first.input_tokens, first.cached_input_tokens) == (told.input_tokens, told.cached_input_tokens)
    (row,) = caller.service.rows(tenant_id=caller.tenant)
    assert (row["request_id"], row["user_id"], row["feature_slug"]) == (first.request_id, "101", "chat")
    assert first.cost_usd == Decimal(row["cost_nano_usd"]) / 10**9
    assert not first.replayed

    again = api.complete(**CALL, user_id=101, idempotency_key=first.idempotency_key)
    assert again.replayed
    assert (again.request_id, again.content) == (first.request_id, first.content)
    assert api.complete(**CALL, user_id=101).request_id != first.request_id
    caller.settled(calls=2)


def test_a_stream_and_its_repetition(caller, api):
    caller.told()
    events = api.events(**CALL, idempotency_key="k")
    *deltas, tokens, whole = events
    assert isinstance(whole, Completion)
    assert "".join(delta.content for delta in deltas if isinstance(delta, Delta)) == whole.content == ANSWER
    assert len(deltas) > 1
    assert isinstance(tokens, Tokens)
    assert (tokens.total_tokens, tokens.input_tokens) == (whole.total_tokens, whole.input_tokens)
    again = api.events(**CALL, idempotency_key="k")
    assert again[:-1] == events[:-1]
    assert isinstance(again[-1], Completion)
    assert again[-1].replayed
    caller.settled()


def test_usage(caller, api):
    caller.told()
    paid = sum((api.complete(**CALL, user_id=user).cost_usd for user in (7, 7, "eve")), Decimal(0))
    total = api.usage()
    assert (total.tenant_id, total.calls, total.cost_usd, total.unknown_calls) == (caller.tenant, 3, paid, 0)
    for group_by, groups in {
        "user": {7: 2, "eve": 1},
        "feature": {"chat": 3},
        "model": {"m": 3},
        "provider": {"anthropic": 3},
        "service": {"tests": 3},
    }.items():
        found = api.usage(caller.tenant, period=total.period, group_by=group_by)
        assert {each.group: each.calls for each in found.groups} == groups
        assert sum(each.cost_usd for each in found.groups) == paid
    (day,) = api.usage(group_by="day").groups
    assert str(day.group).startswith(total.period)
    with pytest.raises(errors.InvalidRequest, match="period"):
        api.usage(period="April")
    with pytest.raises(errors.TenantForbidden):
        api.usage(1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_budget_is_asked_for_once_and_no_provider_is_called(caller, api, stream):
    caller.service.tenant(caller.tenant, budget_usd=0)
    with pytest.raises(errors.BudgetExceeded) as caught:
        (api.events if stream else api.complete)(**CALL)
    assert caught.value.request_id is not None
    assert "budget" in str(caught.value) or "left" in str(caught.value)
    assert api.pauses_s == []
    assert caller.fake.receipts() == []
    caller.nothing_billed()


@pytest.mark.parametrize(
    ("change", "call", "expected"),
    [
        ({"is_active": False}, {}, errors.ModuleInactive),
        ({"expires_at": "2020-01-01T00:00:00Z"}, {}, errors.ModuleExpired),
        ({}, {"tenant_id": 1}, errors.TenantForbidden),
        ({}, {"model": "unheard-of"}, errors.ModelUnknown),
        ({}, {"max_tokens": 0}, errors.InvalidRequest),
    ],
)
def test_refusals(caller, api, change, call, expected):
    caller.service.tenant(caller.tenant, **change)
    with pytest.raises(errors.ApiError) as caught:
        api.complete(**{**CALL, **call})
    assert type(caught.value) is expected
    assert api.pauses_s == []
    caller.nothing_billed()


def test_a_key_of_nobody(caller):
    client = Client(caller.url, "tk_of_nobody")
    with client, pytest.raises(errors.Unauthorized):
        client.complete(**CALL)


def test_the_same_key_for_another_call(caller, api):
    api.complete(**CALL, idempotency_key="k")
    with pytest.raises(errors.IdempotencyMismatch):
        api.complete(**CALL, user_id=5, idempotency_key="k")
    caller.settled()


def test_the_providers_refusal_is_passed_on(caller, api):
    caller.fake.behave(Behaviour(status=400, reason="There is no such voice."))
    with pytest.raises(errors.ProviderRejected, match="There is no such voice"):
        api.complete(**CALL)
    assert len(caller.fake.receipts()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_recovers_answers_the_next_try(caller, api, stream):
    # Tollhouse itself tries twice.
    caller.fake.script([Behaviour(status=503), Behaviour(status=503)])
    caller.told()
    (api.events if stream else api.complete)(**CALL)
    (pause_s,) = api.pauses_s
    assert pause_s >= 1, "as long as Retry-After says"
    caller.settled()


def test_a_rate_limit_is_waited_for(caller, make):
    caller.told()
    patient = make(pauses=True)
    for _ in range(6 + 3):
        patient.complete(**CALL)
    caller.settled(calls=9)
    hurried = make()
    with pytest.raises(errors.RateLimited) as caught:  # noqa: PT012 - some of them pass
        for _ in range(7):
            hurried.complete(**CALL, timeout_s=0.9)
    assert caught.value.retry_after_s == 1
    assert hurried.pauses_s == []


def test_the_services_own_word_on_a_timeout_arrives(caller, api):
    caller.fake.behave(Behaviour(delay_s=3))
    with pytest.raises(errors.CallTimeout) as caught:
        api.complete(**CALL, timeout_s=0.2)
    key = caught.value.idempotency_key
    assert api.pauses_s == []
    caller.fake.behave(Behaviour())
    # It may have been billed, so that nothing is sent under its key any more.
    with pytest.raises(errors.CallTimeout, match="may have been billed"):
        api.complete(**CALL, timeout_s=0.2, idempotency_key=key)
    assert len(caller.fake.receipts()) == 1


@pytest.mark.parametrize("how", [{"cut_after_events": 5}, {"error_after_events": 5}])
def test_a_stream_that_breaks_off_is_told_and_not_repeated(caller, api, how):
    caller.told(**how)
    seen: list[object] = []
    with pytest.raises(errors.Unavailable) as caught:
        api.events(seen, **CALL)
    assert caught.value.idempotency_key
    assert seen
    assert all(isinstance(event, Delta) for event in seen)
    assert api.pauses_s == []
    assert len(caller.fake.receipts()) == 1


def test_a_stream_that_is_left_is_paid_for(caller, api):
    caller.told(content=" ".join(["word"] * 60), chunk_delay_s=0.005)
    assert len(api.events(leave_after=2, **CALL)) == 2
    eventually(lambda: caller.service.rows(tenant_id=caller.tenant))
    caller.settled()


class Gateway(ScriptedServer):
    """Passes requests on to a service, and the first so many answers not back."""

    def __init__(self, port: int, *, loses: int) -> None:
        super().__init__(*[self._lose] * loses, self._relay)
        self._port = port

    def _ask(self) -> bytes:
        request = self.requests[-1]
        with socket.create_connection(("127.0.0.1", self._port)) as service:
            service.sendall(request.head.encode() + b"\r\nConnection: close\r\n\r\n" + request.body)
            parts = []
            while part := service.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def _lose(self, connection: socket.socket) -> bool:
        answer = self._ask()
        connection.sendall(answer[: len(answer) // 2])
        return False

    def _relay(self, connection: socket.socket) -> bool:
        connection.sendall(self._ask())
        return False


def test_an_answer_that_is_lost_twice_on_its_way_is_paid_once(caller, make):
    caller.told()
    with Gateway(caller.service.port, loses=2) as gateway:
        api = make(gateway.url)
        answered = api.complete(**CALL)
        assert len(gateway.requests) == 3
    assert (answered.content, answered.replayed) == (ANSWER, True)
    caller.settled()


def test_a_stream_that_is_lost_is_not_repeated_by_itself_but_by_its_key(caller, make):
    caller.told()
    with Gateway(caller.service.port, loses=1) as gateway:
        api = make(gateway.url)
        with pytest.raises(errors.StreamInterrupted) as caught:
            api.events(**CALL)
        assert len(gateway.requests) == 1
        whole = api.events(**CALL, idempotency_key=caught.value.idempotency_key)[-1]
    assert isinstance(whole, Completion)
    assert (whole.content, whole.replayed) == (ANSWER, True)
    caller.settled()


def test_a_call_that_is_made_twice_at_once_is_paid_once(caller):
    caller.told(delay_s=0.3)
    found: list[Completion] = []
    with Client(caller.url, caller.key) as client:
        threads = [threading.Thread(target=lambda: found.append(client.complete(**KEYED))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({each.request_id for each in found}) == 1
    assert sorted(each.replayed for each in found) == [False, True, True]
    caller.settled()


def test_threads_and_tasks_for_many_tenants_are_each_paid_once(caller):
    caller.told()
    tenants = [caller.service.tenant() for _ in range(10)]
    everybody = caller.service.new_key(feature_slug="chat")["key"]

    def work(client, tenant):
        for number in range(3):
            ids.append(client.complete(**CALL, tenant_id=tenant, user_id=number).request_id)

    async def work_too():
        async with AsyncClient(caller.url, everybody) as client:
            wanted: list[CallOptions] = [{**CALL, "tenant_id": tenant} for tenant in tenants for _ in range(2)]
            calls = [client.complete(**call) for call in wanted]
            return [each.request_id for each in await asyncio.gather(*calls)]

    ids: list[str] = []
    with Client(caller.url, everybody, max_connections=4) as client:
        threads = [threading.Thread(target=work, args=(client, tenant)) for tenant in tenants]
        for thread in threads:
            thread.start()
        ids_of_tasks = asyncio.run(work_too())
        for thread in threads:
            thread.join()
    assert len({*ids, *ids_of_tasks}) == 50
    assert len([receipt for receipt in caller.fake.receipts() if receipt.billed]) == 50
    assert {len(caller.service.rows(tenant_id=tenant)) for tenant in tenants} == {5}


def test_a_cancelled_call_is_carried_out_once_and_its_answer_kept(caller):
    caller.told(delay_s=0.3)

    async def main() -> Completion:
        async with AsyncClient(caller.url, caller.key) as client:
            task = asyncio.create_task(client.complete(**KEYED))
            while not caller.fake.receipts():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.complete(**KEYED)

    answered = asyncio.run(main())
    assert (answered.content, answered.replayed) == (ANSWER, True)
    caller.settled()
