"""An outage of the primary under 200 calls a second: what its fallback takes over, and how soon."""

import asyncio
import time
from collections import Counter
from datetime import datetime

import pytest
import uvloop

from harness.faults import billed_nano_usd
from harness.load import Connection, Outcome, connect, post
from harness.reckoning import numbered_body
from harness.service import ADMIN_KEY, eventually, free_port, limits, model, provider, serving
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.slow

RATE, TIMEOUT_S, OPEN_S = 200, 0.5, 1.0
OUTAGES = {
    "refused": Behaviour(),
    "reset": Behaviour(reset="before_answer"),
    "hanging": Behaviour(hang=True),
    "500": Behaviour(status=500),
    "429": Behaviour(status=429),
}
_BREAKER = f"[breaker]\nopen_s = {OPEN_S}\nmax_open_s = 2\nslow_start_s = 0.5\n"


async def at_rate(port, tenant, seconds):
    """Call at a steady rate, whatever becomes of the calls before."""
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    running: list[asyncio.Task[Outcome]] = []

    async def call(number):
        connection = free.pop() if free else await connect(port)
        body = {**numbered_body(number, tenant), "model": "primary"}
        outcome = await connection.call(number, post(body, ADMIN_KEY))
        if connection.is_open:
            free.append(connection)
        return outcome

    began_s = loop.time()
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(max(began_s + number / RATE - loop.time(), 0))
        running.append(asyncio.create_task(call(number)))
    outcomes = await asyncio.gather(*running)
    for connection in free:
        connection.close()
    return outcomes


def p99_ms(outcomes):
    taken = sorted(each.answered_s - each.sent_s for each in outcomes if each.status == 200)
    return 1000 * taken[int(0.99 * len(taken))]


def state(service):
    return service.request("GET", "/health").json["providers"]["first"]["breaker"]


@pytest.mark.parametrize("kind", OUTAGES)
@pytest.mark.usefixtures("on_each_engine")
def test_a_fallback_takes_over_and_gives_back(kind, tmp_path):
    port = free_port()
    with FakeProvider() as second:
        first = FakeProvider(port=port)
        first.__enter__()
        config = (
            provider("first", "anthropic", first.base_url("anthropic"), timeout_s=TIMEOUT_S)
            + provider("second", "anthropic", second.base_url("anthropic"))
            + model("primary", "first", fallbacks=["spare"])
            + model("spare", "second")
            + limits()
            + _BREAKER
        )
        with serving(tmp_path, config) as service:
            tenant = service.tenant()
            well = uvloop.run(at_rate(service.port, tenant, 1.0))
            assert {each.status for each in well} == {200}
            began_s = time.monotonic()
            if kind == "refused":
                billed = sum(map(billed_nano_usd, (each for each in first.receipts() if each.billed)))
                first.__exit__(None, None, None)
            else:
                billed = 0
                first.behave(OUTAGES[kind])
            down = uvloop.run(at_rate(service.port, tenant, 4.0))
            assert state(service) != "closed"
            opened = next(each for each in _audit(service) if each["action"] == "breaker.open")
            if kind == "refused":
                first = FakeProvider(port=port)
                first.__enter__()
            else:
                first.behave(Behaviour())
            healed_s = time.monotonic()
            back = uvloop.run(at_rate(service.port, tenant, 5.0))
            eventually(lambda: not service.open_reservations())

            statuses = Counter(each.status for each in down)
            taken_over = sum(each.status == 200 and each.json["fallback_used"] for each in down)
            returned_s = next(e.answered_s for e in back if e.status == 200 and not e.json["fallback_used"]) - healed_s
            whole_s = max((e.sent_s for e in back if e.status == 200 and e.json["fallback_used"]), default=healed_s)
            lost = [each for each in (*well, *down, *back) if each.status is None]
            rows = service.rows(tenant_id=tenant)
            settled = sum(row["cost_nano_usd"] for row in rows if row["status"] == "settled")
            told = [each for each in (*well, *down, *back) if each.status == 200]
            receipts = [*first.receipts(), *second.receipts()]
            unknown = sum(row["status"] == "unknown" for row in rows)
            doubled = len(rows) - len({row["request_id"] for row in rows})
            billed += sum(billed_nano_usd(each) for each in receipts if each.billed and each.status == 200)
            opened_s = _opened_after_s(opened, began_s)
            print(
                f"\nOUTAGE {kind}: calls={len(down)} statuses={dict(statuses)} fallback_percent="
                f"{100 * taken_over / len(down):.1f} p99_ms={p99_ms(well):.0f}→{p99_ms(down):.0f} lost={len(lost)} "
                f"doubled={doubled} unknown={unknown} opened_after_s={opened_s:.2f} first_back_s={returned_s:.2f} "
                f"all_back_s={whole_s - healed_s:.2f} switch_entries={_switches(service)}"
            )
            assert (lost, doubled) == ([], 0)
            assert settled == billed, "each receipt is a row, and none is two"
            assert len(told) == sum(row["status"] == "settled" for row in rows)
            assert set(statuses) <= ({200} if kind in {"refused", "500", "429"} else {200, 503, 504})
            assert taken_over > len(down) // 2
            assert service.findings() == []
        first.__exit__(None, None, None)


@pytest.mark.usefixtures("on_each_engine")
def test_with_all_providers_down_calls_are_refused_at_once_and_nothing_is_sent(tmp_path):
    with FakeProvider() as fake:
        config = provider("first", "anthropic", fake.base_url("anthropic")) + model("primary", "first") + limits()
        with serving(tmp_path, config + "[breaker]\nopen_s = 60\n") as service:
            tenant = service.tenant()
            fake.behave(Behaviour(status=500))
            for _ in range(5):
                assert service.complete({**numbered_body(1, tenant), "model": "primary"}).status == 503
            assert state(service) == "open"
            sent = len(fake.receipts())
            outcomes = uvloop.run(at_rate(service.port, tenant, 2.0))
            taken = sorted(1000 * (each.answered_s - each.sent_s) for each in outcomes)
            dispatched = len(fake.receipts()) - sent
            after = sorted({int(each.retry_after) for each in outcomes})
            print(
                f"\nOUTAGE all: calls={len(outcomes)} p50_ms={taken[len(taken) // 2]:.1f} "
                f"p99_ms={taken[int(0.99 * len(taken))]:.1f} dispatched={dispatched} retry_after={after}"
            )
            assert {each.status for each in outcomes} == {503}
            assert dispatched == 0
            assert after[0] > 1
            assert (service.open_reservations(), service.rows(tenant_id=tenant)) == ([], [])


def _audit(service):
    return service.admin("GET", "/admin/audit?limit=500")["entries"][::-1]


def _switches(service):
    return sum(each["action"] == "provider.switched" for each in _audit(service))


def _opened_after_s(entry, began_s):
    at_s = datetime.fromisoformat(entry["created_at"]).timestamp()
    return at_s - (time.time() - (time.monotonic() - began_s))
