"""The bound to what a tenant may have queued, on both engines: exact, whoever asks at once."""

import asyncio
import importlib
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from harness.jobs import Queue, run_on_queue
from tollhouse.errors import InvalidRequest, RateLimited
from tollhouse.jobs.model import Failure, Job
from tollhouse.jobs.queue import QueueRules
from tollhouse.storage.job_schema import ai_job_turns

BUSY = Failure("ai_timeout", "it took too long")
UPGRADE = "tollhouse.storage.migrations.versions.0011_open_jobs"


def bounded(most: int) -> QueueRules:
    return QueueRules(max_queued_per_tenant=most)


async def accepted(queue: Queue, tries: int, **asked: Any) -> list[Job]:
    """Ask for so many jobs at once; return those that were queued."""
    asking = (queue.put(**asked) for _ in range(tries))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, Job | RateLimited) for each in results), results
    return [each for each in results if isinstance(each, Job)]


async def turn(queue: Queue) -> Any:
    return await queue.database.read(lambda connection: connection.execute(sa.select(ai_job_turns)).one())


def test_the_bound_is_exact_however_many_ask_at_once_and_each_tenant_has_its_own(tmp_path):
    async def work(queue: Queue) -> None:
        assert len(await accepted(queue, 25)) == 7
        assert await queue.states() == {"queued": 7}
        assert [what for what, _ in await queue.told()] == ["job.queued"] * 7
        await queue.put("another")

    run_on_queue(tmp_path, work, bounded(7))


def test_what_is_refused_is_told_when_to_come_again_and_nothing_is_written(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put(parts=3)
        with pytest.raises(RateLimited, match="4 completions of this tenant") as refused:
            await queue.put(parts=2)
        assert refused.value.retry_after_s == 5
        assert len(await queue.told()) == 1
        await queue.put()
        assert await queue.states() == {"queued": 5}

    run_on_queue(tmp_path, work, bounded(4))


def test_what_is_under_way_has_a_place_and_what_is_over_has_none(tmp_path):
    async def work(queue: Queue) -> None:
        jobs = [await queue.put() for _ in range(4)]
        done, failed = await queue.next(), await queue.next()
        assert done is not None
        assert failed is not None
        queue.clock.advance(60)
        assert await accepted(queue, 1) == []
        await queue.complete(done, b"")
        await queue.fail(failed, BUSY)
        await queue.cancel(jobs[3].job_id)
        queue.clock.advance(60)
        assert len(await accepted(queue, 5)) == 3

    run_on_queue(tmp_path, work, bounded(4))


def test_jobs_are_counted_now_and_then_and_not_for_each_that_is_refused(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(2):
            await queue.put()
        assert await accepted(queue, 1) == []
        counted_ms = (await turn(queue)).counted_ms
        held = await queue.next()
        assert held is not None
        await queue.complete(held, b"")
        queue.clock.advance(0.999)
        assert await accepted(queue, 1) == []
        assert (await turn(queue)).counted_ms == counted_ms
        queue.clock.advance(0.001)
        assert len(await accepted(queue, 2)) == 1

    run_on_queue(tmp_path, work, bounded(2))


@pytest.mark.engine("sqlite")
def test_a_clock_that_was_set_back_keeps_nobody_waiting(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put()
        assert await accepted(queue, 1) == []
        held = await queue.next()
        assert held is not None
        await queue.complete(held, b"")
        queue.clock.advance(-3600)
        assert len(await accepted(queue, 1)) == 1

    run_on_queue(tmp_path, work, bounded(1))


@pytest.mark.engine("sqlite")
def test_a_job_that_was_taken_is_known_again_though_the_queue_is_full(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(claim_id="c", body_digest="d")
        assert await accepted(queue, 1) == []
        assert (await queue.put(claim_id="c", body_digest="d")).job_id == job.job_id

    run_on_queue(tmp_path, work, bounded(1))


@pytest.mark.engine("sqlite")
def test_what_could_never_be_queued_is_no_matter_of_time(tmp_path):
    async def work(queue: Queue) -> None:
        with pytest.raises(InvalidRequest, match=r"3 completions .* which is 2 \(\[jobs\] max_queued_per_tenant\)"):
            await queue.put(parts=3)
        assert await queue.states() == {}
        await queue.put(parts=2)

    run_on_queue(tmp_path, work, bounded(2))


def test_what_an_operator_has_tried_again_is_taken_beyond_the_bound_and_counts(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=2)
        for _ in range(2):
            held = await queue.next()
            assert held is not None
            await queue.fail(held, BUSY)
        queue.clock.advance(60)
        assert len(await accepted(queue, 3)) == 2
        await queue.again(job.job_id, lambda *_: None)
        assert (await turn(queue)).open_jobs == 4
        first = await queue.next()
        assert first is not None
        await queue.complete(first, b"")
        queue.clock.advance(60)
        assert await accepted(queue, 1) == []

    run_on_queue(tmp_path, work, bounded(2))


@pytest.mark.engine("sqlite")
def test_a_job_that_is_put_off_keeps_its_place_and_takes_no_other(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put()
        for _ in range(3):
            held = await queue.next()
            assert held is not None
            await queue.wait(held, 0)
        assert (await turn(queue)).open_jobs == 1
        assert len(await accepted(queue, 2)) == 1

    run_on_queue(tmp_path, work, bounded(2))


def test_an_upgrade_counts_what_is_open(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(3):
            await queue.put()
        await queue.put(parts=4)
        held = await queue.next()
        assert held is not None
        await queue.complete(held, b"")
        assert await queue.next() is not None

        def upgrade(connection: sa.Connection) -> None:
            for name in ("open_jobs", "counted_ms"):
                connection.execute(sa.text(f"ALTER TABLE ai_job_turns DROP COLUMN {name}"))
            with Operations.context(MigrationContext.configure(connection)):
                importlib.import_module(UPGRADE).upgrade()

        await queue.database.write(upgrade)
        assert (await turn(queue)).open_jobs == 6

    run_on_queue(tmp_path, work)


@pytest.mark.engine("sqlite")
def test_an_upgrade_does_not_read_all_jobs_for_each_tenant(tmp_path):
    """With some hundred tenants and the jobs of a week it would take longer than anybody waits for a start."""

    async def work(queue: Queue) -> None:
        plan = sa.text(f"EXPLAIN QUERY PLAN {importlib.import_module(UPGRADE).COUNT_OPEN_JOBS}")
        steps = await queue.database.read(lambda connection: [row.detail for row in connection.execute(plan)])
        of_jobs = [step for step in steps if "ai_jobs" in step]
        assert len(of_jobs) == 2
        assert all("USING INDEX" in step for step in of_jobs), steps

    run_on_queue(tmp_path, work)
