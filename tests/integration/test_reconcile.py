"""Calls of unknown outcome, from the service that held them to the command that resolves them."""

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from harness.calls import body_for
from harness.service import Service, change_by_hand, limits, model, provider, serving
from tollhouse.testing import Behaviour, FakeProvider

# One nano-USD a token and fifty, whichever way the provider counts.
PRICE = "input = 0.001, output = 0.05"
LOST = Behaviour(hang=True, input_tokens=30, output_tokens=8)


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(_fake: FakeProvider) -> FakeProvider:
    _fake.reset()
    _fake.behave(Behaviour(input_tokens=100, output_tokens=20))
    return _fake


@pytest.fixture
def service(_fake: FakeProvider, tmp_path) -> Iterator[Service]:
    config = "".join([
        provider("openai", "openai", _fake.base_url("openai"), first_byte_timeout_s=0.3),
        model("mini", "openai", upstream_model="gpt-mini", price=PRICE),
        limits(),
    ])  # fmt: skip
    with serving(tmp_path, config) as running:
        yield running


def now_s() -> int:
    return int(time.time())


def calls(service: Service, fake: FakeProvider, tenant, *, settled: int, lost: int) -> tuple[int, int]:
    """Make calls that are answered and calls that are not; return the span of seconds they fall into."""
    start_s = now_s()
    for _ in range(settled):
        assert service.complete(body_for(tenant, model="mini")).status == 200
    fake.behave(LOST)
    for _ in range(lost):
        assert service.complete(body_for(tenant, model="mini")).status == 504
    end_s = now_s() + 1
    while time.time() < end_s:
        time.sleep(0.05)
    return start_s, end_s


def export(span: tuple[int, int], *, requests: int, input_tokens: int, output_tokens: int) -> str:
    """Return OpenAI's own account of a span, in which the model goes by its snapshot's name."""
    result = {
        "object": "organization.usage.completions.result",
        "model": "gpt-mini-2026-01-31",
        "num_model_requests": requests,
        "input_tokens": input_tokens,
        "input_cached_tokens": 0,
        "output_tokens": output_tokens,
    }
    bucket = {"object": "bucket", "start_time": span[0], "end_time": span[1], "results": [result]}
    return json.dumps({"object": "page", "data": [bucket], "has_more": False, "next_page": None})


def reconcile(service: Service, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = service.directory / "export"
    file.write_text(text)
    return service.run("reconcile", "--provider", "openai", "--file", str(file), *arguments)


def money(service: Service, tenant) -> tuple[int, int]:
    """Return what is posted and what is reserved of a tenant's budget."""
    budget = service.budget(tenant)
    return budget["posted_nano_usd"], budget["reserved_nano_usd"]


@pytest.mark.parametrize("beside_a_server", [True, False])
def test_calls_that_the_provider_billed_are_entered_as_it_counted_them(service, fake, beside_a_server):
    tenant = service.tenant()
    span = calls(service, fake, tenant, settled=2, lost=1)
    (unknown,) = service.rows(tenant_id=tenant, status="unknown")
    settled_cost, ceiling = 2 * (100 + 50 * 20), unknown["cost_nano_usd"]
    assert money(service, tenant) == (settled_cost, ceiling)
    if not beside_a_server:
        assert service.terminate() == 0
    counted = export(span, requests=3, input_tokens=230, output_tokens=48)

    dry = reconcile(service, counted, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "1 calls of unknown outcome would be resolved, at $0.00000043." in dry.stdout
    assert money(service, tenant) == (settled_cost, ceiling)

    done = reconcile(service, counted)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split()[2:] for line in done.stdout.splitlines()]
    assert ["gpt-mini", "input_tokens", "230", "200", "30", "30"] in lines
    assert ["gpt-mini", "output_tokens", "48", "40", "8", "8"] in lines
    assert ["gpt-mini", "requests", "3", "2", "1", "1"] in lines
    (row,) = service.rows(tenant_id=tenant, status="adjustment")
    assert (row["request_id"], row["attempt"]) == (unknown["request_id"], unknown["attempt"])
    assert (row["input_tokens"], row["output_tokens"], row["cost_nano_usd"]) == (30, 8, 30 + 50 * 8)
    assert row["billing_period"] == unknown["billing_period"]
    assert money(service, tenant) == (settled_cost + 430, 0)
    assert service.query("SELECT * FROM ai_reservations") == []
    assert service.verify().returncode == 0
    (entry,) = service.query("SELECT * FROM ai_audit_log WHERE action = 'ledger.reconciled'")
    assert (entry["target"], json.loads(entry["after"])["resolved"]) == ("openai", 1)

    again = json.loads(reconcile(service, counted, "--json").stdout)
    assert (again["resolved"], [bucket["outcome"] for bucket in again["buckets"]]) == (0, ["agrees"])


def test_calls_that_the_provider_did_not_bill_cost_nothing(service, fake):
    tenant = service.tenant()
    span = calls(service, fake, tenant, settled=1, lost=2)

    done = reconcile(service, export(span, requests=1, input_tokens=100, output_tokens=20))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 calls of unknown outcome resolved, at $0.00." in done.stdout
    assert money(service, tenant) == (100 + 50 * 20, 0)
    assert service.verify().returncode == 0


def test_what_the_unknown_cannot_explain_is_told_with_exit_code_1_and_changes_nothing(service, fake):
    tenant = service.tenant()
    span = calls(service, fake, tenant, settled=1, lost=1)
    before = money(service, tenant)

    told = reconcile(service, export(span, requests=4, input_tokens=500, output_tokens=60))

    assert told.returncode == 1
    assert "differs: the provider counted 3 more calls than the ledger, which has 1 of unknown outcome" in told.stdout
    assert money(service, tenant) == before
    assert service.findings() == []


def test_a_span_that_is_not_over_is_passed_over(service, fake):
    tenant = service.tenant()
    start_s, _ = calls(service, fake, tenant, settled=0, lost=1)
    today = (start_s, now_s() + 3600)

    told = reconcile(service, export(today, requests=0, input_tokens=0, output_tokens=0))

    assert (told.returncode, "skipped: it is not over yet" in told.stdout) == (0, True)
    assert money(service, tenant)[1] > 0


def test_a_spreadsheet_of_another_provider_will_do(service, fake):
    tenant = service.tenant()
    span = calls(service, fake, tenant, settled=1, lost=1)
    start, end = (datetime.fromtimestamp(second, UTC).isoformat() for second in span)
    text = f"start,end,model,input_tokens,output_tokens\n{start},{end},gpt-mini,130,28\n"

    assert reconcile(service, text).returncode == 0

    assert money(service, tenant) == (130 + 50 * 28, 0)


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("text", "arguments", "exit_code", "told"),
    [
        ("start,end,model,input_tokens,output_tokens\n2026-04-01,2026-04-02,m,x,1\n", (), 2, "export: line 2: input_"),
        ("", (), 2, "there is no usage of any model in it"),
        ("start,end,model,input_tokens,output_tokens\n2026-04-01,2026-04-02,m,1,1\n", ("--provider", "azure"), 1,
         "no provider 'azure' is configured; configured are: openai"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(service, text, arguments, exit_code, told):
    refused = reconcile(service, text, *arguments)

    assert (refused.returncode, refused.stdout) == (exit_code, "")
    assert told in refused.stderr


def test_the_address_is_for_super_admins_and_takes_no_typing_errors(service):
    bucket = {"model": "gpt-mini", "start": "2026-04-01T00:00:00Z", "end": "2026-04-02T00:00:00Z"}
    body = {"provider": "openai", "buckets": [bucket]}
    key = service.new_key()["key"]

    assert service.request("POST", "/admin/reconciliations", body, key=key).code == "ai_forbidden"
    reply = service.request("POST", "/admin/reconciliations", body | {"dryrun": True})
    assert (reply.status, reply.message) == (422, "dryrun: unknown field; did you mean 'dry_run'?")
    reply = service.request("POST", "/admin/reconciliations", body | {"buckets": [bucket | {"input_tokens": -1}]})
    assert (reply.status, reply.code) == (422, "ai_invalid_request")
    (found,) = service.admin("POST", "/admin/reconciliations", body)["buckets"]
    assert (found["outcome"], found["start"]) == ("agrees", "2026-04-01T00:00:00.000Z")


def test_a_running_service_frees_what_was_held_for_long_enough(service, fake):
    tenant = service.tenant()
    calls(service, fake, tenant, settled=0, lost=1)
    assert service.terminate() == 0
    # The clock cannot be set, so the reservation is made older than the hold.
    change_by_hand(service.database_url, "UPDATE ai_reservations SET created_at = '2026-01-01T00:00:00.000Z'")

    service.start()

    deadline_s = time.monotonic() + 20
    while not service.rows(tenant_id=tenant, status="adjustment"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    (row,) = service.rows(tenant_id=tenant, status="adjustment")
    assert (row["finish_reason"], row["cost_nano_usd"]) == ("expired", 0)
    assert money(service, tenant) == (0, 0)
