"""Schedules on both engines: when they fire, that they fire once, and what they make."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from ipaddress import ip_network

import msgspec
import pytest
import sqlalchemy as sa

from harness.jobs import Queue, run_on_queue
from tollhouse.completions.model import CompleteBody
from tollhouse.errors import InvalidRequest, ModelUnknown, NotFound
from tollhouse.jobs import lookup
from tollhouse.jobs.body import JobBody, ReportBody
from tollhouse.jobs.model import Job
from tollhouse.jobs.queue import QueueRules
from tollhouse.jobs.scheduling import ScheduleBody, Schedules, next_time
from tollhouse.jobs.sealing import Seal
from tollhouse.jobs.service import Jobs, Plan, Reader, ReportRules
from tollhouse.jobs.templating import load_templates
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import epoch_ms, utc_text
from tollhouse.storage.job_schema import ai_job_schedules
from tollhouse.webhooks.destination import Network

SHOP = Principal("key_1", "shop", "service", frozenset({"42"}), "digest")
BOTH = Principal("key_2", "both", "service", None)
ANOTHERS = JobBody(model="m", user_message="and there?", tenant_id=43, feature_slug="digest")
HOURLY = ScheduleBody(cron="0 * * * *", job=JobBody(model="m", user_message="what happened?"))


def schedules_of(queue: Queue, plan: Plan | None = None, networks: Sequence[Network] = ()) -> Schedules:
    seal, templates = Seal(b"k" * 32), load_templates(None)
    jobs = Jobs(queue.database, queue, seal, b"d" * 32, queue.clock, templates, ReportRules(), plan, networks)
    return Schedules(queue.database, queue, seal, jobs, queue.clock, queue.time_ms)


async def every_job(queue: Queue) -> list[Job]:
    found = await queue.database.read(partial(lookup.page, state=None, tenant_id=None, before_id=None, most=100))
    return list(found)


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("cron", "timezone", "expected"),
    [
        ("0 9 * * *", "UTC", "2026-04-11T09:00:00.000Z"),
        ("0 9 * * *", "Africa/Kampala", "2026-04-11T06:00:00.000Z"),
        ("*/15 * * * *", "UTC", "2026-04-10T12:15:00.000Z"),
        ("@monthly", "UTC", "2026-05-01T00:00:00.000Z"),
        # The hour that there is twice: once is enough.
        ("30 2 25 10 *", "Europe/Berlin", "2026-10-25T00:30:00.000Z"),
    ],
)
def test_the_next_time_goes_by_the_clock_of_its_time_zone(cron, timezone, expected):
    after_ms = epoch_ms(datetime.fromisoformat("2026-04-10T12:00:00Z"))
    assert utc_text(next_time(cron, timezone, after_ms)) == expected


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("cron", "timezone", "told"),
    [
        ("every day", "UTC", "cron: expected five fields"),
        ("0 0 30 2 *", "UTC", "cron: expected"),
        ("* * * * *", "Mars/Base", "timezone: expected"),
        ("* * * * *", "../../etc/passwd", "timezone: expected"),
    ],
)
def test_what_names_no_time_is_refused(cron, timezone, told):
    with pytest.raises(InvalidRequest, match=told):
        next_time(cron, timezone, 0)


def test_a_schedule_fires_once_however_many_look(tmp_path):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        made = await schedules.add(SHOP, HOURLY)
        assert made.next_at == "2026-04-10T13:00:00.000Z"
        assert await schedules.fire_due() == 0
        queue.clock.advance(3600)
        fired = await asyncio.gather(*(schedules.fire_due() for _ in range(4)))
        assert sum(fired) == 1
        assert await queue.states() == {"queued": 1}
        found = await schedules.get(Reader(SHOP), made.schedule_id)
        assert found.next_at == "2026-04-10T14:00:00.000Z"
        assert found.last_job_id is not None
        job = await queue.find(found.last_job_id)
        assert (job.tenant_id, job.feature_slug, job.service, job.key_id) == ("42", "digest", "shop", "key_1")

    run_on_queue(tmp_path, work)


def test_what_was_missed_is_made_up_for_once(tmp_path):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        await schedules.add(SHOP, HOURLY)
        queue.clock.advance(5.5 * 3600)
        assert await schedules.fire_due() == 1
        assert await schedules.fire_due() == 0
        assert await queue.states() == {"queued": 1}
        queue.clock.advance(0.5 * 3600)
        assert await schedules.fire_due() == 1

    run_on_queue(tmp_path, work)


def test_a_report_is_made_anew_each_time(tmp_path):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        params = {"template": "batch-analysis", "task": "t", "rows": [1, 2]}
        body = ScheduleBody(cron="@daily", report=ReportBody(tenant_id=42, user_id=7, params=params))
        made = await schedules.add(BOTH, body)
        assert (made.tenant_id, made.user_id) == (42, 7)
        for _ in range(2):
            queue.clock.advance(24 * 3600)
            assert await schedules.fire_due() == 1
        assert await queue.states() == {"queued": 6}

    run_on_queue(tmp_path, work)


def test_a_schedule_whose_job_cannot_be_made_goes_on_to_its_next_time(tmp_path, capsys):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        made = await schedules.add(SHOP, HOURLY)
        revoked = (
            "INSERT INTO ai_service_keys (key_id, service, role, feature_slug, digest, created_at, revoked_at)"
            " VALUES ('key_1', 'shop', 'service', '', 'd', 'x', 'y')"
        )
        await queue.database.write(lambda connection: connection.execute(sa.text(revoked)).close())
        queue.clock.advance(3600)
        assert await schedules.fire_due() == 1
        assert await queue.states() == {}
        assert (await schedules.get(Reader(SHOP), made.schedule_id)).next_at == "2026-04-10T14:00:00.000Z"

    run_on_queue(tmp_path, work)
    assert "has been revoked" in capsys.readouterr().out


def test_a_schedule_whose_tenants_queue_is_full_makes_none_and_goes_on(tmp_path, capsys):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        made = await schedules.add(SHOP, HOURLY)
        await schedules.add(BOTH, msgspec.structs.replace(HOURLY, job=ANOTHERS))
        await queue.put()
        queue.clock.advance(3600)
        assert await schedules.fire_due() == 2
        assert {job.tenant_id for job in await every_job(queue)} == {"42", "43"}
        found = await schedules.get(Reader(SHOP), made.schedule_id)
        assert (found.next_at, found.last_job_id) == ("2026-04-10T14:00:00.000Z", None)

    run_on_queue(tmp_path, work, QueueRules(max_queued_per_tenant=1))
    told = capsys.readouterr().out
    assert "a schedule makes no job" in told
    assert "ai_rate_limited" in told


def test_a_schedule_fires_in_a_process_that_checks_calls_too(tmp_path):
    """As ``serve`` does, whose planner asks the event loop; a schedule is fired by the thread that writes."""

    def plan(body: CompleteBody, principal: Principal) -> int:
        return int(asyncio.get_running_loop().time() < 0)

    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue, plan)
        await schedules.add(SHOP, HOURLY)
        queue.clock.advance(3600)
        assert await schedules.fire_due() == 1
        assert await queue.states() == {"queued": 1}

    run_on_queue(tmp_path, work)


def test_a_schedule_makes_its_job_though_its_webhook_may_go_nowhere_by_now(tmp_path):
    """Such as after an upgrade, or where the worker that fires it knows of no networks; each try is judged anyway."""

    async def work(queue: Queue) -> None:
        assert HOURLY.job is not None
        told = msgspec.structs.replace(HOURLY.job, webhook_url="https://10.0.0.1/hook")
        with pytest.raises(InvalidRequest, match="webhook_url"):
            await schedules_of(queue).add(SHOP, msgspec.structs.replace(HOURLY, job=told))
        inside = schedules_of(queue, networks=[ip_network("10.0.0.0/8")])
        await inside.add(SHOP, msgspec.structs.replace(HOURLY, job=told))
        queue.clock.advance(3600)
        assert await schedules_of(queue).fire_due() == 1
        (job,) = await every_job(queue)
        assert job.webhook_url == "https://10.0.0.1/hook"

    run_on_queue(tmp_path, work)


def test_a_schedule_that_would_be_refused_now_is_not_made(tmp_path):
    def plan(body: CompleteBody, principal: Principal) -> int:
        raise ModelUnknown("there is no model m")

    async def work(queue: Queue) -> None:
        with pytest.raises(ModelUnknown):
            await schedules_of(queue, plan).add(SHOP, HOURLY)

    run_on_queue(tmp_path, work)


def test_a_schedule_that_cannot_be_read_keeps_no_other_from_firing(tmp_path, capsys):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        older = await schedules.add(SHOP, HOURLY)
        await schedules.add(SHOP, HOURLY)
        # As another version wrote it, which knew a field that this one does not.
        content = b'{"job": {"model": "m", "mood": "good"}, "report": null}'
        sealed = Seal(b"k" * 32).seal(older.schedule_id, content)
        change = sa.update(ai_job_schedules).values(sealed_request=sealed)
        change = change.where(ai_job_schedules.c.schedule_id == older.schedule_id)
        await queue.database.write(lambda connection: connection.execute(change).close())
        queue.clock.advance(3600)
        assert await schedules.fire_due() == 2
        assert await queue.states() == {"queued": 1}

    run_on_queue(tmp_path, work)
    assert "a schedule makes no job" in capsys.readouterr().out


def test_a_schedule_is_there_for_whose_it_is_alone(tmp_path):
    async def work(queue: Queue) -> None:
        schedules = schedules_of(queue)
        made = await schedules.add(SHOP, HOURLY)
        other = Reader(Principal("key_3", "x", "service", frozenset({"43"})))
        for stranger in (other, Reader(SHOP, tenant_id="43"), Reader(SHOP, user_id="7")):
            assert (await schedules.of_tenant(stranger, "42")).schedules == []
            with pytest.raises(NotFound):
                await schedules.remove(stranger, made.schedule_id)
        assert (await schedules.of_tenant(Reader(SHOP), "42")).schedules == [made]
        await schedules.remove(Reader(SHOP), made.schedule_id)
        assert (await schedules.of_tenant(Reader(SHOP), "42")).schedules == []
        for wrong in (
            ScheduleBody(cron="@daily"),
            ScheduleBody(cron="@daily", job=HOURLY.job, report=ReportBody(params={})),
        ):
            with pytest.raises(InvalidRequest, match="either job or report"):
                await schedules.add(SHOP, wrong)

    run_on_queue(tmp_path, work)
