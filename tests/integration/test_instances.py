"""Several ``tollhouse serve`` processes on one PostgreSQL database: what one does is in force on the other."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.calls import NANO, body_for, ceiling_nano_usd
from harness.engines import Engine
from harness.load import Outcome, all_at_once, post
from harness.service import LEASE_S, Reply, Service, eventually, limits, model, providers
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.engine("postgresql")

BURST = 20
# A call a minute beyond the burst: none comes free while a test runs.
LIMITS = limits(requests_per_minute=1, burst=BURST)
# How calls of these models end that are in flight while their instance is stopped: meanwhile, or after it went on.
OUTCOMES = {
    "late": Behaviour(delay_s=1.0),
    "failing": Behaviour(delay_s=1.0, status=503),
    "later": Behaviour(delay_s=4.0 * LEASE_S),
    "failing later": Behaviour(delay_s=4.0 * LEASE_S, status=503),
}
# Longer than any of these tests: whoever waits for such an answer does not get it.
NEVER = Behaviour(delay_s=300)


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    return _fake


def _config(fake: FakeProvider) -> str:
    names = ("m", *OUTCOMES)
    return "".join([providers(fake), *(model(name, "openai") for name in names), LIMITS])


@pytest.fixture(scope="module")
def lasting(
    engine: Engine, _fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two instances for the tests that leave both running."""
    folder, config = tmp_path_factory.mktemp("instances"), _config(_fake)
    with _running(folder, config) as pair:
        yield pair


@pytest.fixture
def pair(tmp_path: Path, fake: FakeProvider) -> Iterator[tuple[Service, Service]]:
    """Two instances for a test that ends or stops one of them."""
    with _running(tmp_path, _config(fake)) as pair:
        yield pair


class _running:
    """Two instances of one database, each in a directory of its own."""

    def __init__(self, folder: Path, config: str) -> None:
        for name in ("one", "other"):
            (folder / name).mkdir()
        self._one = Service(folder / "one", config)
        self._other = Service(folder / "other", config, url=self._one.database_url)

    def __enter__(self) -> tuple[Service, Service]:
        self._one.start()
        try:
            self._other.start()
        except BaseException:
            self._one.kill()
            raise
        return self._one, self._other

    def __exit__(self, *_: object) -> None:
        try:
            self._one.__exit__()
        finally:
            self._other.__exit__()


def seconds_until(condition: Callable[[], object], at_most_s: float) -> float:
    """Wait until a condition holds, and return how long that took."""
    begin_s = time.monotonic()
    eventually(condition, timeout_s=at_most_s)
    return time.monotonic() - begin_s


def both_at_once(pair: tuple[Service, Service], requests: list[bytes]) -> list[Outcome]:
    """Send requests to two instances at the same time, half of them to each."""

    async def main() -> list[Outcome]:
        halves = (requests[::2], requests[1::2])
        outcomes = await asyncio.gather(
            *(all_at_once(service.port, half) for service, half in zip(pair, halves, strict=True))
        )
        return [*outcomes[0], *outcomes[1]]

    return asyncio.run(main())


class Call:
    """A call that is made from a thread of its own."""

    def __init__(self, service: Service, body: object, **headers: str) -> None:
        self._reply: Reply | None = None
        self._thread = threading.Thread(target=self._make, args=(service, body), kwargs=headers)
        self._thread.start()

    def _make(self, service: Service, body: object, **headers: str) -> None:
        try:
            self._reply = service.complete(body, **headers)
        except OSError:
            return

    def reply(self) -> Reply | None:
        """Return what was answered; None when the connection broke before."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._reply


# What one changes.


def test_a_gate_that_one_closes_is_closed_at_the_other_at_once(lasting, fake):
    one, other = lasting
    tenant = one.tenant()
    body = body_for(tenant, model="m")
    assert other.complete(body).status == 200

    one.tenant(tenant, is_active=False)
    assert other.complete(body).code == "ai_module_inactive"
    other.tenant(tenant, is_active=True)
    assert one.complete(body).status == 200
    one.admin("PUT", f"/admin/tenants/{tenant}/features/sales-summary", {"is_enabled": False})
    assert other.complete(body).code == "ai_feature_disabled"
    other.admin("PUT", f"/admin/tenants/{tenant}/features/sales-summary", {"is_enabled": True})
    assert one.complete(body).status == 200
    assert len(fake.receipts()) == len(one.rows(tenant_id=tenant)) == 3


def test_a_cap_that_one_lowers_holds_at_the_other_at_once(lasting, fake):
    one, other = lasting
    tenant = one.tenant()
    body = body_for(tenant, model="m")
    assert other.complete(body).status == 200

    one.admin("PUT", f"/admin/tenants/{tenant}/budgets/user/101", {"budget_usd": 0})
    assert other.complete(body).code == "ai_budget_exceeded"
    assert other.complete({**body, "user_id": 102}).status == 200
    other.admin("DELETE", f"/admin/tenants/{tenant}/budgets/user/101")
    assert one.complete(body).status == 200
    one.tenant(tenant, budget_usd=0)
    assert other.complete(body).code == "ai_budget_exceeded"
    assert len(fake.receipts()) == 3


def test_a_cap_holds_for_both_together(lasting, fake):
    one, _ = lasting
    body = body_for(0, model="m")
    fits = 5
    cap = fits * ceiling_nano_usd(body, input_usd="0.80", output_usd="4.00")
    tenant = one.tenant(budget_usd=float(Decimal(cap) / NANO))
    # Nothing is settled, and so given back, while they are admitted.
    fake.behave(Behaviour(delay_s=1.5))
    key = one.new_key()["key"]
    eventually(lambda: all(service.request("GET", "/ai/usage", key=key).status != 401 for service in lasting))

    outcomes = both_at_once(lasting, [post({**body, "tenant_id": tenant}, key)] * (BURST - 2))

    assert Counter(outcome.status for outcome in outcomes) == {200: fits, 402: BURST - 2 - fits}
    assert len(fake.receipts()) == fits


def seconds_until_answered(status: int, service: Service, body: object, key: str) -> float:
    """Wait, for a second at most, until calls with a key are answered with a status."""
    return seconds_until(lambda: service.complete(body, key=key).status == status, 1.0)


def test_a_key_works_at_the_other_within_a_second_and_is_refused_there_within_another(lasting, fake):
    one, other = lasting
    body = body_for(one.tenant(), model="m")
    waited_s = []
    for maker, asked in ((one, other), (other, one)):
        made = maker.new_key()
        assert maker.complete(body, key=made["key"]).status == 200, "where it was made, it works at once"
        waited_s.append(seconds_until_answered(200, asked, body, made["key"]))
        maker.admin("DELETE", f"/admin/keys/{made['key_id']}")
        assert maker.complete(body, key=made["key"]).status == 401
        waited_s.append(seconds_until_answered(401, asked, body, made["key"]))
    print("keys made and revoked are known to the other after", [f"{1000 * each:.0f} ms" for each in waited_s])


# What both share.


def test_the_rate_limit_holds_for_both_together(lasting, fake):
    one, other = lasting
    tenant = one.tenant()
    key = one.new_key()["key"]
    eventually(lambda: other.request("GET", f"/ai/usage?tenant_id={tenant}", key=key).status == 200)

    outcomes = both_at_once(lasting, [post(body_for(tenant, model="m"), key)] * 3 * BURST)

    assert Counter(outcome.status for outcome in outcomes) == {200: BURST, 429: 2 * BURST}
    assert len(fake.receipts()) == BURST
    for service in lasting:
        refused = service.complete(body_for(tenant, model="m"))
        assert (refused.status, refused.code) == (429, "ai_rate_limited")
        assert int(refused.headers["retry-after"]) > 1


def test_an_idempotency_key_is_answered_by_one_and_replayed_by_the_other_byte_for_byte(lasting, fake):
    one, other = lasting
    tenant = one.tenant()
    body = body_for(tenant, model="m")
    first = one.complete(body, Idempotency_Key="order-1")
    fake.behave(Behaviour(content="Something else."))

    again = other.complete(body, Idempotency_Key="order-1")

    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
    assert other.complete({**body, "max_tokens": 9}, Idempotency_Key="order-1").code == "ai_idempotency_mismatch"
    assert len(fake.receipts()) == len(one.rows(tenant_id=tenant)) == 1


def test_a_key_in_flight_at_one_is_in_flight_at_the_other_and_of_many_calls_one_is_paid(lasting, fake):
    one, other = lasting
    tenant = one.tenant()
    body, key = body_for(tenant, model="m"), one.new_key()["key"]
    eventually(lambda: other.request("GET", f"/ai/usage?tenant_id={tenant}", key=key).status == 200)
    fake.behave(Behaviour(delay_s=1.0))
    first = Call(one, body, key=key, Idempotency_Key="order-2")
    eventually(fake.receipts)
    assert other.complete(body, key=key, Idempotency_Key="order-2").code == "ai_idempotency_in_flight"
    answered = first.reply()
    assert answered is not None
    assert other.complete(body, key=key, Idempotency_Key="order-2").body == answered.body

    outcomes = both_at_once(lasting, [post(body, key, idempotency_key="order-3")] * 200)

    assert set(Counter(outcome.status for outcome in outcomes)) <= {200, 409}
    assert len({outcome.body for outcome in outcomes if outcome.status == 200}) == 1
    assert len(fake.receipts()) == len(one.rows(tenant_id=tenant)) == 2


def test_the_books_of_both_are_consistent(lasting):
    eventually(lambda: not lasting[0].open_reservations())
    for service in lasting:
        assert service.findings() == []


def test_a_month_that_both_begin_at_once_begins_for_both(pair, fake):
    one, other = pair
    tenants = [service.tenant() for service in pair]
    with psycopg.connect(one.database_url) as connection:
        # Neither finds the month open, and both wait for their turn to open it.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('tollhouse ai_open_month', 0))")
        calls = [Call(service, body_for(tenant, model="m")) for service, tenant in zip(pair, tenants, strict=True)]
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: len(one.query(waiting)) == 2, timeout_s=4.0)

    replies = [call.reply() for call in calls]

    assert [reply and reply.status for reply in replies] == [200, 200]
    assert len(other.rows()) == len(fake.receipts()) == 2


# One that is lost.


def live_epochs(service: Service) -> set[int]:
    return {row["epoch"] for row in service.query("SELECT epoch FROM ai_instances WHERE state = 'live'")}


def unknown_rows(service: Service, tenant: object, count: int) -> list[dict[str, Any]]:
    rows = service.rows(tenant_id=tenant, status="unknown")
    return rows if len(rows) == count else []


def test_what_one_that_is_killed_leaves_is_held_as_unknown_by_the_other_once(pair, fake):
    one, other = pair
    tenant, lively = one.tenant(), one.tenant()
    fake.behave(NEVER, model="m")
    fake.behave(Behaviour(delay_s=3.0 * LEASE_S), model="late")
    body = body_for(tenant, model="m")
    lost = [Call(one, body, Idempotency_Key=f"lost-{number}") for number in range(4)]
    own = Call(other, body_for(lively, model="late"))
    eventually(lambda: len(fake.receipts()) == 5)
    held = one.budget(tenant)["reserved_nano_usd"]

    one.kill()
    waited_s = seconds_until(lambda: unknown_rows(other, tenant, 4), 30.0)

    print(f"calls of an instance that was killed are held as unknown after {waited_s:.1f} s (a lease of {LEASE_S} s)")
    assert [call.reply() for call in lost] == [None] * 4
    answer = own.reply()
    assert answer is not None
    assert answer.status == 200, "what is in flight at an instance that lives is left to it"
    budget = other.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (0, held)
    assert sum(row["cost_nano_usd"] for row in other.rows(tenant_id=tenant)) == held > 0
    for number in range(4):
        again = other.complete(body, Idempotency_Key=f"lost-{number}")
        assert (again.status, again.code) == (504, "ai_timeout")
        assert "may have been billed" in again.message

    one.start()
    fake.behave(Behaviour(), model="m")
    assert one.complete(body).status == 200
    assert len(other.rows(tenant_id=tenant)) == 5
    assert len({row["request_id"] for row in other.rows(tenant_id=tenant)}) == 5
    assert len(fake.receipts()) == 6
    assert other.open_reservations() == []
    assert other.findings() == []


def test_one_that_was_stopped_for_longer_than_its_lease_does_nothing_more_for_what_was_taken_from_it(pair, fake):
    one, other = pair
    (before,) = live_epochs(one) - {max(live_epochs(one))}
    tenant = one.tenant()
    for name, behaviour in OUTCOMES.items():
        fake.behave(behaviour, model=name)
    calls = [Call(one, body_for(tenant, model=name), Idempotency_Key=name) for name in OUTCOMES]
    eventually(lambda: len(fake.receipts()) == 4)

    one.process.send_signal(signal.SIGSTOP)
    try:
        waited_s = seconds_until(lambda: unknown_rows(other, tenant, 4), 30.0)
    finally:
        one.process.send_signal(signal.SIGCONT)

    print(f"calls of an instance that was stopped are held as unknown after {waited_s:.1f} s")
    eventually(lambda: one.complete(body_for(tenant, model="m")).status == 200)
    replies = [call.reply() for call in calls]
    assert [reply and reply.code for reply in replies] == ["ai_unavailable"] * 4
    assert sorted(receipt.model for receipt in fake.receipts()) == sorted([*OUTCOMES, "m"]), "no second try"
    assert one.query("SELECT state FROM ai_instances WHERE epoch = ?", before) == [{"state": "lost"}]
    assert max(live_epochs(one)) > before + 1, "it serves under a new epoch"
    rows = one.rows(tenant_id=tenant)
    assert Counter(row["status"] for row in rows) == {"unknown": 4, "settled": 1}
    assert len({row["request_id"] for row in rows}) == 5
    for name in OUTCOMES:
        again = one.complete(body_for(tenant, model=name), Idempotency_Key=name)
        assert (again.status, again.code) == (504, "ai_timeout")
    assert one.open_reservations() == []
    assert one.findings() == []


def test_one_that_leaves_in_peace_takes_its_answers_with_it_and_is_not_declared_lost(pair, fake):
    one, other = pair
    tenant = one.tenant()
    fake.behave(Behaviour(delay_s=1.0))
    call = Call(one, body_for(tenant, model="m"))
    eventually(fake.receipts)

    assert one.terminate() == 0

    answer = call.reply()
    assert answer is not None
    assert answer.status == 200
    assert [row["status"] for row in other.rows(tenant_id=tenant)] == ["settled"]
    states = Counter(row["state"] for row in other.query("SELECT state FROM ai_instances"))
    assert states == {"live": 1, "stopped": 1}
