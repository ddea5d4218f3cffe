"""What callers ask of jobs, on both engines."""

import asyncio
from ipaddress import ip_network

import msgspec
import pytest

from harness.jobs import Queue, run_on_queue
from tollhouse.completions.model import CompleteBody
from tollhouse.errors import BudgetExceeded, IdempotencyMismatch, InvalidRequest, NotFound, RateLimited
from tollhouse.jobs.body import JobBody, ReportBody
from tollhouse.jobs.queue import QueueRules
from tollhouse.jobs.sealing import Seal
from tollhouse.jobs.service import Jobs, Reader, ReportRules
from tollhouse.jobs.templating import load_templates
from tollhouse.keys.model import Principal
from tollhouse.webhooks.destination import Network

SHOP = Principal("key_1", "shop", "service", frozenset({"42"}))


def test_what_was_accepted_is_not_refused_when_it_is_asked_for_again(tmp_path):
    """Its own calls may have used up the budget meanwhile, and whoever asks again has not heard of it."""
    is_spent: list[bool] = []

    def plan(body: CompleteBody, principal: Principal) -> int:
        if is_spent:
            raise BudgetExceeded("nothing is left")
        return 1

    async def work(queue: Queue) -> None:
        seal, templates = Seal(b"k" * 32), load_templates(None)
        jobs = Jobs(queue.database, queue, seal, b"d" * 32, queue.clock, templates, ReportRules(), plan)
        params = {"template": "batch-analysis", "task": "t", "rows": [1, 2]}
        first = await jobs.generate(SHOP, ReportBody(params=params), "once")
        is_spent.append(True)
        assert (await jobs.generate(SHOP, ReportBody(params=params), "once")).job_id == first.job_id
        with pytest.raises(IdempotencyMismatch):
            await jobs.generate(SHOP, ReportBody(params={**params, "rows": [1]}), "once")
        with pytest.raises(BudgetExceeded):
            await jobs.generate(SHOP, ReportBody(params=params), "twice")

    run_on_queue(tmp_path, work)


def test_a_full_queue_refuses_new_jobs_alone(tmp_path):
    async def work(queue: Queue) -> None:
        jobs = Jobs(queue.database, queue, Seal(b"k" * 32), b"d" * 32, queue.clock, load_templates(None), ReportRules())
        body = JobBody(model="m", user_message="u", feature_slug="f")
        first = await jobs.submit(SHOP, body, "once")
        with pytest.raises(RateLimited):
            await jobs.submit(SHOP, body, None)
        with pytest.raises(RateLimited):
            await jobs.generate(SHOP, ReportBody(params={"data": 1}), "another")
        assert (await jobs.submit(SHOP, body, "once")).job_id == first.job_id
        assert await queue.states() == {"queued": 1}

    run_on_queue(tmp_path, work, QueueRules(max_queued_per_tenant=1))


def test_a_webhook_into_a_private_network_is_refused_when_the_job_is_asked_for(tmp_path):
    async def work(queue: Queue) -> None:
        def jobs_of(*networks: Network) -> Jobs:
            seal, templates = Seal(b"k" * 32), load_templates(None)
            return Jobs(
                queue.database, queue, seal, b"d" * 32, queue.clock, templates, ReportRules(), networks=networks
            )

        inside, outside = "https://127.0.0.1/hook", "https://hooks.example.com/hook"
        body = JobBody(model="m", user_message="u", feature_slug="f", webhook_url=inside)
        with pytest.raises(InvalidRequest, match="webhook_url: it leads into a private network"):
            await jobs_of().submit(SHOP, body, None)
        with pytest.raises(InvalidRequest, match="webhook_url: it leads into a private network"):
            await jobs_of().generate(SHOP, ReportBody(params={"data": 1}, webhook_url=inside), None)
        assert await queue.states() == {}
        await jobs_of(ip_network("127.0.0.0/8")).submit(SHOP, body, None)
        await jobs_of().submit(SHOP, msgspec.structs.replace(body, webhook_url=outside), None)
        # What was accepted once is not refused when it is asked for again, whatever has changed meanwhile.
        first = await jobs_of(ip_network("127.0.0.0/8")).submit(SHOP, body, "once")
        assert (await jobs_of().submit(SHOP, body, "once")).job_id == first.job_id

    run_on_queue(tmp_path, work)


def test_a_job_whose_time_is_over_is_not_there_for_whoever_asks_again(tmp_path):
    """Though it is deleted a while later only; its id would lead nowhere."""

    async def work(queue: Queue) -> None:
        jobs = Jobs(queue.database, queue, Seal(b"k" * 32), b"d" * 32, queue.clock, load_templates(None), ReportRules())
        body = JobBody(model="m", user_message="u", feature_slug="f")
        first = await jobs.submit(SHOP, body, "once")
        await queue.cancel(first.job_id)
        queue.clock.advance(3599)
        assert (await jobs.submit(SHOP, body, "once")).job_id == first.job_id
        queue.clock.advance(1)
        with pytest.raises(NotFound):
            await jobs.status(Reader(SHOP), first.job_id)
        # Even something else may be asked for.
        another = msgspec.structs.replace(body, user_message="v")
        again = await asyncio.gather(*(jobs.submit(SHOP, another, "once") for _ in range(4)))
        assert len({each.job_id for each in again} | {first.job_id}) == 2
        assert (await jobs.status(Reader(SHOP), again[0].job_id)).status == "queued"
        queue.clock.advance(1)
        assert await queue.forget_expired() == 1
        assert (await jobs.submit(SHOP, another, "once")).job_id == again[0].job_id

    run_on_queue(tmp_path, work, QueueRules(keep_hours=1))
