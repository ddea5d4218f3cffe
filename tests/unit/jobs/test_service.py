"""What callers ask of jobs, on both engines."""

import pytest

from harness.jobs import Queue, run_on_queue
from tollhouse.completions.model import CompleteBody
from tollhouse.errors import BudgetExceeded, IdempotencyMismatch, RateLimited
from tollhouse.jobs.body import JobBody, ReportBody
from tollhouse.jobs.queue import QueueRules
from tollhouse.jobs.sealing import Seal
from tollhouse.jobs.service import Jobs, ReportRules
from tollhouse.jobs.templating import load_templates
from tollhouse.keys.model import Principal

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
