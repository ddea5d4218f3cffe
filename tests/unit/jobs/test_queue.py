"""The queue on both engines: turns, leases, tries, parts, and what is told of each."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from harness.jobs import Queue, run_on_queue
from tollhouse.errors import Conflict, IdempotencyMismatch, NotFound
from tollhouse.jobs import lookup
from tollhouse.jobs.model import Failure, Job
from tollhouse.jobs.queue import CRASHED, QueueRules
from tollhouse.jobs.watch import look
from tollhouse.kit.clock import utc_text

BUSY = Failure("ai_timeout", "it took too long")


def nothing_more(*_: object) -> None:
    """What is written beside a change: nothing."""


async def claimed(queue: Queue, most: int, worker: str = "w") -> list[Job]:
    return [each.job for each in await queue.claim(worker, most)]


def test_a_job_is_claimed_once_and_told_of_from_beginning_to_end(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put()
        assert (job.state, job.attempts) == ("queued", 0)
        (held,) = await claimed(queue, 5)
        assert (held.job_id, held.state, held.attempts, held.run) == (job.job_id, "processing", 1, 1)
        assert await queue.next() is None
        assert await queue.complete(held, b"result")
        assert (await queue.find(job.job_id)).state == "complete"
        assert await queue.told() == [
            ("job.queued", job.job_id),
            ("job.started", job.job_id),
            ("job.completed", job.job_id),
        ]

    run_on_queue(tmp_path, work)


def test_tenants_take_turns_however_many_jobs_one_has(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(50):
            await queue.put("many")
        await claimed(queue, 5)
        await queue.put("one")
        for _ in range(3):
            await queue.put("few")
        assert Counter(job.tenant_id for job in await claimed(queue, 3)) == {"one": 1, "few": 1, "many": 1}
        assert Counter(job.tenant_id for job in await claimed(queue, 5)) == {"few": 2, "many": 3}

    run_on_queue(tmp_path, work)


def test_whoever_comes_again_and_again_does_not_pass_those_who_wait(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(10):
            await queue.put("many")
        served: Counter[str] = Counter()
        for _ in range(10):
            await queue.put("eager")
            job = await queue.next()
            assert job is not None
            served[job.tenant_id] += 1
            await queue.complete(job, b"")
        assert served == {"eager": 5, "many": 5}

    run_on_queue(tmp_path, work)


def test_priority_orders_a_tenants_own_jobs_and_nobody_elses(tmp_path):
    async def work(queue: Queue) -> None:
        low, high = await queue.put("a", priority=-5), await queue.put("a", priority=9)
        usual, other = await queue.put("a"), await queue.put("b")
        order = [job.job_id for job in await claimed(queue, 9)]
        assert [job_id for job_id in order if job_id != other.job_id] == [high.job_id, usual.job_id, low.job_id]

    run_on_queue(tmp_path, work)


def test_a_job_that_is_put_off_waits_its_time_and_lets_others_pass(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put(priority=9)
        first = await queue.next()
        assert first is not None
        assert await queue.try_again(first, 10.0)
        assert await queue.next() is None
        second = await queue.put()
        assert [job.job_id for job in await claimed(queue, 9)] == [second.job_id]
        queue.clock.advance(10)
        (again,) = await claimed(queue, 9)
        assert (again.job_id, again.tries, again.run) == (first.job_id, 2, 2)

    run_on_queue(tmp_path, work)


def test_a_try_that_could_not_be_made_does_not_count(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put()
        for delays in range(5):
            job = await queue.next()
            assert job is not None
            assert (job.attempts, job.delays) == (1, delays)
            await queue.wait(job, 0)
        job = await queue.next()
        assert job is not None
        await queue.give_back(job)
        assert (await queue.find(job.job_id)).attempts == 0
        assert (await queue.told()).count(("job.started", job.job_id)) == 1

    run_on_queue(tmp_path, work)


def test_what_a_dead_worker_held_is_anothers_and_the_dead_one_writes_nothing(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put()
        dead = await queue.next("dead")
        assert dead is not None
        queue.clock.advance(29)
        assert await queue.take_back_lapsed() == 0
        queue.clock.advance(2)
        assert await queue.take_back_lapsed() == 1
        for write in (queue.complete(dead, b"late"), queue.fail(dead, BUSY), queue.wait(dead, 0)):
            assert not await write
        alive = await queue.next("alive")
        assert alive is not None
        assert (alive.attempts, alive.crashes, alive.tries) == (2, 1, 1)
        for write in (queue.complete(dead, b"late"), queue.fail(dead, BUSY), queue.try_again(dead, 0)):
            assert not await write
        assert await queue.beat("dead") == {}
        assert await queue.complete(alive, b"in time")
        assert not await queue.complete(alive, b"twice")
        assert [word for word, _ in await queue.told()].count("job.completed") == 1

    run_on_queue(tmp_path, work)


def test_a_heartbeat_prolongs_the_lease_of_all_that_a_worker_holds(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(3):
            await queue.put()
        mine = await claimed(queue, 2, "mine")
        other = await claimed(queue, 1, "other")
        queue.clock.advance(20)
        assert await queue.beat("mine") == {job.job_id: job.run for job in mine}
        queue.clock.advance(15)
        assert await queue.take_back_lapsed() == 1
        assert (await queue.find(other[0].job_id)).state == "queued"
        assert len(await queue.beat("mine")) == 2
        # A claim is as good as a heartbeat.
        queue.clock.advance(29)
        assert len(await claimed(queue, 1, "mine")) == 1
        queue.clock.advance(29)
        assert await queue.take_back_lapsed() == 0

    run_on_queue(tmp_path, work)


def test_a_worker_that_leaves_returns_what_it_holds(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(2):
            await queue.put()
        held = await claimed(queue, 2, "w")
        await queue.leave("w")
        assert [(await queue.find(job.job_id)).attempts for job in held] == [0, 0]
        assert not await queue.complete(held[0], b"late")
        assert len(await claimed(queue, 2)) == 2

    run_on_queue(tmp_path, work)


def test_a_job_that_three_workers_died_with_is_set_aside(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put()
        for _ in range(3):
            assert await queue.next() is not None
            queue.clock.advance(31)
            assert await queue.take_back_lapsed() == 1
            queue.clock.advance(31)
        found = await queue.find(job.job_id)
        assert (found.state, found.error_code, found.crashes, found.attempts) == ("failed", CRASHED, 3, 3)
        assert (await queue.told())[-1] == ("job.failed", job.job_id)
        assert await queue.next() is None

    run_on_queue(tmp_path, work)


def test_what_dies_beside_others_is_innocent_until_it_dies_alone(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(2):
            await queue.put()
        for death in range(1, 6):
            held = await claimed(queue, 2)
            assert {(job.attempts, job.crashes, job.interruptions) for job in held} == {(1, 0, death - 1)}
            queue.clock.advance(31)
            assert await queue.take_back_lapsed() == 2
            queue.clock.advance(61)
        poison, innocent = await claimed(queue, 2)
        assert await queue.complete(innocent, b"")
        for _ in range(3):
            assert await queue.crashed(poison)
            queue.clock.advance(100)
            held = await claimed(queue, 1)
            assert len(held) == (0 if (await queue.find(poison.job_id)).is_over else 1)
            poison = held[0] if held else poison
        found = await queue.find(poison.job_id)
        assert (found.state, found.error_code, found.crashes) == ("failed", CRASHED, 3)

    run_on_queue(tmp_path, work)


def test_a_try_that_did_no_harm_clears_a_job(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(2):
            await queue.put()
        await claimed(queue, 2)
        queue.clock.advance(31)
        await queue.take_back_lapsed()
        first, second = await claimed(queue, 2)
        await queue.try_again(first, 0)
        await queue.wait(second, 0)
        assert (await queue.find(first.job_id)).interruptions == 0
        assert (await queue.find(second.job_id)).interruptions == 1

    run_on_queue(tmp_path, work)


def test_a_job_that_is_there_whenever_machines_die_is_set_aside_in_the_end(tmp_path):
    async def work(queue: Queue) -> None:
        jobs = [await queue.put() for _ in range(2)]
        deaths = 0
        while await claimed(queue, 2):
            queue.clock.advance(31)
            await queue.take_back_lapsed()
            queue.clock.advance(61)
            deaths += 1
        assert deaths == 30
        assert {(await queue.find(job.job_id)).error_code for job in jobs} == {CRASHED}

    run_on_queue(tmp_path, work)


def test_the_clock_of_leases_may_jump(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put()
        held = await queue.next("w")
        assert held is not None
        queue.clock.advance(3600)
        assert await queue.beat("w") == {held.job_id: held.run}
        assert await queue.take_back_lapsed() == 0
        queue.clock.advance(-7200)
        assert await queue.beat("w") == {held.job_id: held.run}
        queue.clock.advance(31)
        assert await queue.take_back_lapsed() == 1

    run_on_queue(tmp_path, work)


def test_an_embedded_worker_that_begins_anew_takes_all_back_at_once(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(150):
            await queue.put()
        assert len(await claimed(queue, 150)) == 150
        assert await queue.take_back_all() == 150
        assert await queue.states() == {"queued": 150}
        assert len(await claimed(queue, 200)) == 150

    run_on_queue(tmp_path, work)


def test_parts_are_claimed_one_by_one_and_the_last_one_ends_the_job(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=3)
        parts = await claimed(queue, 9)
        assert [(part.parent_id, part.position) for part in parts] == [(job.job_id, n) for n in range(3)]
        assert (await queue.find(job.job_id)).state == "processing"
        await queue.complete(parts[1], b"b")
        await queue.fail(parts[2], BUSY)
        found = await queue.find(job.job_id)
        assert (found.state, found.parts_complete, found.parts_failed) == ("processing", 1, 1)
        await queue.complete(parts[0], b"a")
        found = await queue.find(job.job_id)
        assert (found.state, found.parts_complete, found.parts_failed) == ("complete", 2, 1)
        assert [word for word, subject in await queue.told() if subject == job.job_id] == [
            "job.queued",
            "job.started",
            "job.progressed",
            "job.progressed",
            "job.completed",
        ]
        assert {subject for _, subject in await queue.told()} == {job.job_id}
        kept = await queue.database.read(lambda connection: store_parts(connection, job.job_id))
        assert kept == [("complete", b"a"), ("complete", b"b"), ("failed", None)]

    run_on_queue(tmp_path, work)


def store_parts(connection, job_id):
    return [(part.state, sealed) for part, sealed in lookup.parts_of(connection, job_id)]


def test_a_job_all_of_whose_parts_fail_fails_as_the_first_of_them(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=2)
        first, second = await claimed(queue, 2)
        await queue.fail(second, Failure("ai_timeout", "later"))
        await queue.fail(first, Failure("ai_budget_exceeded", "first"))
        found = await queue.find(job.job_id)
        assert (found.state, found.error_code, found.error_message) == ("failed", "ai_budget_exceeded", "first")

    run_on_queue(tmp_path, work)


def test_what_has_not_been_started_can_be_cancelled(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put()
        assert (await queue.cancel(job.job_id)).state == "cancelled"
        assert await queue.next() is None
        for _ in range(2):
            with pytest.raises(Conflict, match="is cancelled"):
                await queue.cancel(job.job_id)
        with pytest.raises(NotFound):
            await queue.cancel("job_unknown")
        started = await queue.put()
        held = await queue.next()
        assert held is not None
        with pytest.raises(Conflict, match="is processing"):
            await queue.cancel(started.job_id)
        assert await queue.complete(held, b"")

    run_on_queue(tmp_path, work)


def test_of_a_job_under_way_the_parts_that_wait_are_cancelled(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=5)
        (held,) = await claimed(queue, 1)
        assert (await queue.cancel(job.job_id)).state == "cancelled"
        assert await queue.next() is None
        assert await queue.complete(held, b"done before")
        found = await queue.find(job.job_id)
        assert (found.state, found.parts_complete) == ("cancelled", 1)
        assert await queue.states() == {"cancelled": 5, "complete": 1}
        assert (await queue.told())[-1] == ("job.cancelled", job.job_id)

    run_on_queue(tmp_path, work)


def test_a_job_all_of_whose_parts_are_under_way_is_not_cancelled_any_more(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=2)
        held = await claimed(queue, 2)
        with pytest.raises(Conflict, match="is processing"):
            await queue.cancel(job.job_id)
        for each in held:
            assert await queue.complete(each, b"paid for")
        assert (await queue.find(job.job_id)).state == "complete"

    run_on_queue(tmp_path, work)


def test_a_part_that_was_under_way_is_not_tried_again_once_its_job_is_cancelled(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=3)
        (held,) = await claimed(queue, 1)
        await queue.cancel(job.job_id)
        assert await queue.try_again(held, 0)
        assert await queue.next() is None
        assert await queue.states() == {"cancelled": 4}

    run_on_queue(tmp_path, work)


def test_what_came_of_a_call_is_lost_and_the_next_try_is_a_new_call(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put()
        for key, anew in ((job.job_id, False), (job.job_id, True), (f"{job.job_id}.1", True)):
            held = await queue.next()
            assert held is not None
            assert held.idempotency_key == key
            await queue.try_again(held, 0, anew=anew)
        held = await queue.next()
        assert held is not None
        assert (held.generation, held.attempts) == (2, 4)
        await queue.renew(held)
        held = await queue.next()
        assert held is not None
        assert (held.generation, held.attempts) == (3, 4)

    run_on_queue(tmp_path, work)


def test_how_runs_ended_is_counted(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(4):
            await queue.put()
        complete, failed, again, _ = await claimed(queue, 4)
        await queue.complete(complete, b"")
        await queue.fail(failed, BUSY)
        await queue.try_again(again, 60)
        for _ in range(2):
            await queue.beat("w")
        state = await queue.database.read(lambda connection: look(connection, queue.clock.now_ms()))
        assert state.totals == {("ai-jobs", name): 1 for name in ("complete", "failed", "tried_again")}
        assert state.depths == {("ai-jobs", name): 1 for name in ("queued", "processing", "failed")}
        assert (state.workers, state.overdue_s) == (1, {"ai-jobs": 0.0})
        queue.clock.advance(70)
        state = await queue.database.read(lambda connection: look(connection, queue.clock.now_ms()))
        assert (state.workers, state.overdue_s) == (0, {"ai-jobs": 10.0})

    run_on_queue(tmp_path, work)


def test_what_failed_is_tried_again_under_another_key(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put()
        held = await queue.next()
        assert held is not None
        assert held.idempotency_key == job.job_id
        with pytest.raises(Conflict, match="is processing"):
            await queue.again(job.job_id, nothing_more)
        await queue.fail(held, BUSY)
        queued = await queue.again(job.job_id, nothing_more)
        assert (queued.state, queued.attempts, queued.error_code) == ("queued", 0, "")
        held = await queue.next()
        assert held is not None
        assert held.idempotency_key == f"{job.job_id}.1"

    run_on_queue(tmp_path, work)


def test_of_a_job_with_parts_those_that_failed_are_tried_again(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=3)
        first, second, third = await claimed(queue, 3)
        await queue.complete(first, b"1")
        await queue.fail(second, BUSY)
        await queue.complete(third, b"3")
        assert (await queue.again(job.job_id, nothing_more)).state == "queued"
        (again,) = await claimed(queue, 9)
        assert again.job_id == second.job_id
        await queue.complete(again, b"2")
        found = await queue.find(job.job_id)
        assert (found.state, found.parts_complete, found.parts_failed) == ("complete", 3, 0)

    run_on_queue(tmp_path, work)


def test_parts_that_failed_are_not_tried_again_while_others_run_or_once_their_job_was_cancelled(tmp_path):
    async def work(queue: Queue) -> None:
        job = await queue.put(parts=3)
        first, second = await claimed(queue, 2)
        await queue.fail(first, BUSY)
        with pytest.raises(Conflict, match="is processing; only what has failed"):
            await queue.again(job.job_id, nothing_more)
        await queue.complete(second, b"2")
        await queue.cancel(job.job_id)
        with pytest.raises(Conflict, match="is cancelled; only what has failed"):
            await queue.again(job.job_id, nothing_more)
        assert await queue.states() == {"failed": 1, "complete": 1, "cancelled": 2}

    run_on_queue(tmp_path, work)


def test_what_is_over_is_dropped_on_demand_and_forgotten_in_time(tmp_path):
    async def work(queue: Queue) -> None:
        job, other = await queue.put(), await queue.put(parts=2)
        with pytest.raises(Conflict, match="is queued"):
            await queue.drop(job.job_id, nothing_more)
        for held in await claimed(queue, 3):
            await queue.fail(held, BUSY)
        await queue.drop(job.job_id, nothing_more)
        assert await queue.states() == {"failed": 3}
        queue.clock.advance(3599)
        assert await queue.forget_expired() == 0
        queue.clock.advance(2)
        assert await queue.forget_expired() == 1
        assert await queue.states() == {}
        with pytest.raises(NotFound):
            await queue.again(other.job_id, nothing_more)

    run_on_queue(tmp_path, work, QueueRules(keep_hours=1))


def test_jobs_are_forgotten_by_a_bounded_number_of_rows_at_a_time(tmp_path):
    async def work(queue: Queue) -> None:
        for _ in range(3):
            await queue.cancel((await queue.put(parts=4)).job_id)
        in_time = utc_text(queue.clock.now_ms() + 365 * 24 * 3_600_000)
        for most, jobs in ((1, 1), (9, 1), (10, 2), (100, 3)):
            found = await queue.database.read(partial(lookup.expired, now=in_time, most=most))
            assert len(found) == jobs

    run_on_queue(tmp_path, work)


def test_a_job_asked_for_twice_under_one_key_is_one_job(tmp_path):
    async def work(queue: Queue) -> None:
        added = await asyncio.gather(*(queue.put(claim_id="c", body_digest="d") for _ in range(5)))
        assert len({job.job_id for job in added}) == 1
        assert await queue.states() == {"queued": 1}
        with pytest.raises(IdempotencyMismatch):
            await queue.put(claim_id="c", body_digest="another")

    run_on_queue(tmp_path, work)


def test_workers_that_claim_at_once_never_get_the_same_job(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(60):
            await queue.put(f"tenant {number % 7}")
        taken: list[str] = []

        async def worker(name: str) -> None:
            while len(taken) < 60:
                for job in await claimed(queue, 3, name):
                    taken.append(job.job_id)
                    assert await queue.complete(job, b"")

        async with asyncio.timeout(60):
            await asyncio.gather(*(worker(f"w{number}") for number in range(6)))
        assert len(set(taken)) == len(taken) == 60
        assert await queue.states() == {"complete": 60}

    run_on_queue(tmp_path, work)


def test_ten_thousand_jobs_of_one_tenant_do_not_keep_another_waiting(tmp_path):
    async def work(queue: Queue) -> None:
        await queue.put("many", parts=10_000)
        await claimed(queue, 8)
        job = await queue.put("one")
        await queue.put("many", priority=100)
        assert job.job_id in [each.job_id for each in await claimed(queue, 2)]

    run_on_queue(tmp_path, work)


def test_a_job_is_cancelled_or_claimed_and_never_both(tmp_path):
    async def work(queue: Queue) -> None:
        jobs = [await queue.put(f"tenant {number % 3}") for number in range(30)]

        async def cancel(job: Job) -> bool:
            try:
                await queue.cancel(job.job_id)
            except Conflict:
                return False
            return True

        async with asyncio.timeout(60):
            ended, taken = await asyncio.gather(
                asyncio.gather(*(cancel(job) for job in jobs)),
                asyncio.gather(*(claimed(queue, 2, f"w{number}") for number in range(10))),
            )
        cancelled = {job.job_id for job, is_cancelled in zip(jobs, ended, strict=True) if is_cancelled}
        held = [job for some in taken for job in some]
        assert len(held) == len({job.job_id for job in held})
        assert not cancelled & {job.job_id for job in held}
        for job in held:
            assert await queue.complete(job, b"")
        left = await claimed(queue, 30)
        assert len(cancelled) + len(held) + len(left) == 30

    run_on_queue(tmp_path, work)
