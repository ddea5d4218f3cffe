"""Jobs and reports over HTTP, run by a worker of the service itself."""

import json

import pytest

from harness.calls import body_for
from harness.service import eventually
from tollhouse.testing import Behaviour


@pytest.fixture(scope="module")
def over(request):
    from integration.jobs.conftest import ended

    return ended


def submit(service, body, key, path="/ai/jobs", **headers):
    reply = service.request("POST", path, body, key=key, **headers)
    assert reply.status == 202, reply
    assert set(reply.json) == {"job_id", "status"}
    return reply.json["job_id"]


def test_a_job_is_a_call_that_is_made_later_and_paid_once(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    fake.behave(Behaviour(content="Three loaves and two rolls."))
    job_id = submit(service, body_for(tenant), key)
    told = over(service, job_id, key)
    assert (told["status"], told["attempts"], told["tenant_id"]) == ("complete", 1, tenant)
    assert told["result"]["content"] == "Three loaves and two rolls."
    assert told["download_url"] == f"/ai/jobs/{job_id}/download"
    file = service.request("GET", told["download_url"], key=key)
    assert (file.status, file.body) == (200, b"Three loaves and two rolls.")
    assert file.headers["content-type"] == "text/plain; charset=utf-8"
    (row,) = service.rows(tenant_id=tenant)
    assert row["request_id"] == told["result"]["request_id"]
    assert (row["user_id"], row["feature_slug"]) == ("101", "sales-summary")
    assert len(fake.receipts()) == 1


def test_a_report_is_made_from_its_template(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    fake.behave(Behaviour(content="# Sales\nGood."))
    body = {"tenant_id": tenant, "user_id": 7, "params": {"title": "April", "data": {"loaves": 3}}}
    job_id = submit(service, body, key, "/reports/generate")
    over(service, job_id, key)
    status = service.request("GET", f"/reports/{job_id}/status", key=key).json
    assert (status["status"], status["attempts"]) == ("complete", 1)
    assert status["download_url"] == f"/reports/{job_id}/download"
    file = service.request("GET", status["download_url"], key=key)
    assert (file.body, file.headers["content-type"]) == (b"# Sales\nGood.", "text/markdown; charset=utf-8")
    assert f'filename="summary-{job_id}.md"' in file.headers["content-disposition"]
    (receipt,) = fake.receipts()
    assert 'Title: April\\n\\nData:\\n{\\"loaves\\":3}' in json.dumps(receipt.request)
    (row,) = service.rows(tenant_id=tenant)
    assert row["feature_slug"] == "report-generation"


def test_a_report_over_rows_is_one_job_of_many_calls(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    fake.behave(Behaviour(content="fine"))
    params = {"template": "batch-analysis", "task": "Rate it.", "rows": [{"row": n} for n in range(20)]}
    job_id = submit(service, {"tenant_id": tenant, "params": params}, key, "/reports/generate")
    told = over(service, job_id, key)
    assert told["progress"] == {"total": 20, "complete": 20, "failed": 0}
    rows = service.request("GET", f"/reports/{job_id}/download", key=key).json["rows"]
    assert [(row["number"], row["status"], row["content"]) for row in rows] == [
        (n, "complete", "fine") for n in range(1, 21)
    ]
    assert len(service.rows(tenant_id=tenant)) == len(fake.receipts()) == 20


def test_rows_that_might_not_all_fit_the_budget_are_not_begun(service, fake, over):
    tenant = service.tenant(budget_usd=0.05)
    key = service.new_key(tenants=[tenant])["key"]
    params = {"template": "batch-analysis", "task": "Rate it.", "rows": list(range(20))}
    reply = service.request("POST", "/reports/generate", {"tenant_id": tenant, "params": params}, key=key)
    assert (reply.status, reply.code) == (402, "ai_budget_exceeded")
    assert "20 completions may cost up to" in reply.message
    assert fake.receipts() == []
    params["rows"] = [1]
    job_id = submit(service, {"tenant_id": tenant, "params": params}, key, "/reports/generate")
    assert over(service, job_id, key)["status"] == "complete"


def test_a_job_counts_against_the_cap_and_in_the_name_of_the_key_that_asked_for_it(service, fake, over):
    tenant = service.tenant()
    made = service.new_key(tenants=[tenant], service="shop")
    over(service, submit(service, body_for(tenant), made["key"]), made["key"])
    (row,) = service.rows(tenant_id=tenant)
    assert (row["key_id"], row["service"]) == (made["key_id"], "shop")
    service.admin("PUT", f"/admin/keys/{made['key_id']}/budget", {"budget_usd": 0})
    params = {"template": "batch-analysis", "task": "Rate it.", "rows": [1]}
    reply = service.request("POST", "/reports/generate", {"tenant_id": tenant, "params": params}, key=made["key"])
    assert (reply.status, reply.code) == (402, "ai_budget_exceeded")
    told = over(service, submit(service, body_for(tenant), made["key"]), made["key"])
    assert (told["status"], told["error"]) == ("failed", "ai_budget_exceeded")
    other = service.new_key(tenants=[tenant])["key"]
    assert over(service, submit(service, body_for(tenant), other), other)["status"] == "complete"


def test_what_the_provider_said_of_a_job_is_told_to_who_asked_and_stands_nowhere_else(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    reader = service.new_key(tenants=[tenant], role="reader")["key"]
    fake.behave(Behaviour(status=400, reason="You said: the king is bald."))
    job_id = submit(service, body_for(tenant), key)
    told = over(service, job_id, key)
    assert (told["error"], told["attempts"]) == ("ai_provider_rejected", 1)
    assert "the king is bald" in told["message"]
    plain = "the provider refused the request"
    assert service.request("GET", f"/ai/jobs/{job_id}", key=reader).json["message"] == plain
    assert service.request("GET", f"/admin/jobs/{job_id}").json["message"] == plain
    (event,) = service.query("SELECT data FROM ai_events WHERE type = 'ai.job.failed' AND subject = ?", job_id)
    assert plain in event["data"]
    assert "bald" not in event["data"]


def test_a_budget_that_is_used_up_ends_a_job_at_its_first_try(service, fake, over):
    tenant = service.tenant(budget_usd=0)
    key = service.new_key(tenants=[tenant])["key"]
    job_id = submit(service, {"tenant_id": tenant, "params": {"data": 1}}, key, "/reports/generate")
    over(service, job_id, key)
    status = service.request("GET", f"/reports/{job_id}/status", key=key).json
    assert (status["status"], status["error"], status["attempts"]) == ("failed", "ai_budget_exceeded", 1)
    assert fake.receipts() == []
    reply = service.request("GET", f"/reports/{job_id}/download", key=key)
    assert (reply.status, reply.code) == (409, "ai_conflict")


def test_what_a_provider_cannot_answer_is_tried_three_times_and_then_a_dead_letter(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    fake.behave(Behaviour(garbage=True))
    job_id = submit(service, body_for(tenant), key)
    told = over(service, job_id, key)
    assert (told["status"], told["attempts"]) == ("failed", 3), told
    dead = service.request("GET", f"/admin/jobs?status=failed&tenant_id={tenant}").json["jobs"]
    assert [job["job_id"] for job in dead] == [job_id]
    fake.behave(Behaviour(content="now"))
    assert f"{job_id} is queued again." in service.run("jobs", "retry", job_id).stdout
    told = over(service, job_id, key)
    assert (told["status"], told["result"]["content"]) == ("complete", "now")
    assert "job.retried" in service.run("audit").stdout
    assert job_id in service.run("jobs", "list", "--tenant", str(tenant)).stdout
    assert "is dropped" in service.run("jobs", "drop", job_id).stdout
    assert service.request("GET", f"/ai/jobs/{job_id}", key=key).status == 404


def test_a_job_is_there_for_the_tenant_and_the_user_that_asked_alone(service, fake, over):
    tenant, other = service.tenant(), service.tenant()
    key, foreign = (service.new_key(tenants=[each])["key"] for each in (tenant, other))
    reader = service.new_key(tenants=[tenant], role="reader")["key"]
    job_id = submit(service, body_for(tenant), key)
    over(service, job_id, key)
    for path in (f"/ai/jobs/{job_id}", f"/ai/jobs/{job_id}/download"):
        assert service.request("GET", path, key=foreign).status == 404
        assert service.request("GET", path, key=key, X_User_Id="102").status == 404
        assert service.request("GET", path, key=key, X_User_Id="101").status == 200
        assert service.request("GET", path, key=key, X_Tenant_Id=str(other)).status == 404
    seen = service.request("GET", f"/ai/jobs/{job_id}", key=reader)
    assert (seen.status, seen.json["status"]) == (200, "complete")
    assert "result" not in seen.json
    assert service.request("GET", f"/ai/jobs/{job_id}/download", key=reader).code == "ai_forbidden"
    assert service.request("DELETE", f"/ai/jobs/{job_id}", key=foreign).status == 404
    assert service.request("POST", "/ai/jobs", body_for(other), key=key).code == "ai_tenant_forbidden"
    assert service.request("POST", "/ai/jobs", body_for(tenant), key=reader).code == "ai_forbidden"
    assert service.request("GET", f"/reports/{job_id}/status", key=key).status == 404


def test_asked_for_twice_under_one_key_a_job_is_one(service, fake, over):
    tenant = service.tenant()
    key = service.new_key(tenants=[tenant])["key"]
    first = submit(service, body_for(tenant), key, Idempotency_Key="once")
    assert submit(service, body_for(tenant), key, Idempotency_Key="once") == first
    over(service, first, key)
    reply = service.request("POST", "/ai/jobs", body_for(tenant, max_tokens=9), key=key, Idempotency_Key="once")
    assert (reply.status, reply.code) == (422, "ai_idempotency_mismatch")
    assert len(fake.receipts()) == 1


def test_a_tenant_whose_queue_is_full_is_told_when_to_come_again(service, fake):
    tenant, other = service.tenant(), service.tenant()
    key = service.new_key()["key"]
    fake.behave(Behaviour(delay_s=0.3))
    params = {"template": "batch-analysis", "task": "Rate it.", "rows": list(range(50))}
    job_id = submit(service, {"tenant_id": tenant, "params": params}, key, "/reports/generate")
    reply = service.request("POST", "/reports/generate", {"tenant_id": tenant, "params": params}, key=key)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "ai_rate_limited", "5")
    submit(service, body_for(other), key)
    assert service.request("DELETE", f"/ai/jobs/{job_id}", key=key).json["status"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "changes", "told"),
    [
        ("/ai/jobs", {"stream": True}, "stream: a job's answer is stored whole"),
        ("/ai/jobs", {"model": "gpt-0"}, "gpt-0"),
        ("/ai/jobs", {"user_message": ...}, "user_message: expected either"),
        ("/ai/jobs", {"webhook_url": "ftp://x"}, "webhook_url: expected an http://"),
        ("/ai/jobs", {"priority": 101}, "priority: expected"),
        ("/ai/jobs", {"prioity": 1}, "did you mean 'priority'?"),
        ("/reports/generate", {"params": {"template": "poem"}}, "known are batch-analysis, document-extraction"),
        ("/reports/generate", {"params": {"template": "batch-analysis", "rows": [1]}}, "params.task: is required"),
        ("/reports/generate", {"params": {"template": "batch-analysis", "rows": 1, "task": "t"}}, "1 to 50 entries"),
        ("/reports/generate", {"params": {"template": "sales-summary", "sales": 1, "x": 2}}, "params.'x': unknown"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(service, path, changes, told):
    tenant = service.tenant()
    body = body_for(tenant, **changes) if path == "/ai/jobs" else {"tenant_id": tenant, **changes}
    reply = service.request("POST", path, body)
    assert reply.status in {404, 422}, reply
    assert told in reply.message


def test_what_is_asked_and_answered_is_not_readable_in_the_database(service, fake, over):
    from harness import engines

    tenant = service.tenant()
    fake.behave(Behaviour(content="canary-of-the-answer"))
    job_id = submit(service, body_for(tenant, user_message="canary-of-the-prompt"), service.new_key()["key"])
    over(service, job_id)
    eventually(
        lambda: service.query("SELECT 1 AS one FROM ai_jobs WHERE job_id = ? AND sealed_request IS NULL", job_id)
    )
    stored = engines.stored_bytes(service.database)
    assert b"canary-of-the-answer" not in stored
    assert b"canary-of-the-prompt" not in stored
    assert "canary-of" not in service.log()


def test_metrics_and_the_doctor_tell_how_the_queue_stands(service, fake, over):
    tenant = service.tenant()
    fake.behave(Behaviour(content="done"))
    job_id = submit(service, body_for(tenant), service.new_key()["key"])
    over(service, job_id)

    def told() -> str:
        text = service.request("GET", "/metrics").body.decode()
        return text if 'tollhouse_job_runs_total{outcome="complete",queue="ai-jobs"}' in text else ""

    assert "tollhouse_job_workers 1.0" in eventually(told)
    found = {each["check"]: each for each in json.loads(service.run("doctor", "--json").stdout)}
    assert found["jobs"]["status"] == "ok"
    assert "1 workers are alive" in found["jobs"]["message"]


def test_schedules_are_made_listed_and_deleted_by_command(service, tmp_path):
    tenant = service.tenant()
    body = tmp_path / "job.json"
    body.write_text(json.dumps(body_for(tenant)))
    made = service.run(
        "schedules",
        "create",
        "--cron",
        "0 7 * * MON",
        "--timezone",
        "Africa/Kampala",
        "--name",
        "weekly",
        "--job",
        str(body),
    )
    assert "T04:00:00.000Z for the first time" in made.stdout, made
    schedule_id = made.stdout.split()[0]
    listed = service.run("schedules", "list", "--tenant", str(tenant)).stdout
    assert schedule_id in listed
    assert "weekly" in listed
    assert schedule_id in service.run("schedules", "list").stdout
    assert f"{schedule_id} is deleted." in service.run("schedules", "delete", schedule_id).stdout
    assert service.run("schedules", "list", "--tenant", str(tenant)).stdout == "No schedules.\n"
    assert "there is no schedule" in service.run("schedules", "delete", schedule_id).stderr
    assert "expected either --job or --report" in service.run("schedules", "create", "--cron", "@daily").stderr
