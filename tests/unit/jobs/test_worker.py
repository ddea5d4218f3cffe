"""A worker, on both engines, whose calls a test answers."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import sqlalchemy as sa

from harness.jobs import Queue, run_on_queue
from tollhouse.client import errors
from tollhouse.jobs import lookup
from tollhouse.jobs.calling import JobCall, TryFailed, _failure, _verdict
from tollhouse.jobs.model import Failure
from tollhouse.jobs.queue import CRASHED, QueueRules
from tollhouse.jobs.sealing import Seal
from tollhouse.jobs.worker import Worker, WorkerRules
from tollhouse.keys.charging import Accounts
from tollhouse.keys.model import Principal

SEAL = Seal(b"k" * 32)
ACCOUNTS = Accounts(b"a" * 32)
WORKER = Principal("key_of_the_worker", "worker", "service", frozenset({"42"}))
SUBMITTER = Principal("k", "shop", "service", frozenset({"42"}))
RULES = WorkerRules(concurrency=3, retry_pause_s=0.0, poll_s=0.005, stop_timeout_s=5)


class Scripted:
    """Answers calls as it is told, the last way for ever.

    Attributes:
        calls: the idempotency keys of all calls.
    """

    def __init__(self, *steps: bytes | TryFailed | Callable[[], Awaitable[bytes]]) -> None:
        self._steps = list(steps)
        self.calls: list[str] = []
        self.under_way = 0
        self.at_once: list[int] = []

    async def call(self, call: JobCall) -> bytes:
        key = call.idempotency_key
        assert call.request == b"request of " + key.partition(".")[0].encode()
        assert ACCOUNTS.charged(WORKER, call.account.encode(), key) == SUBMITTER
        self.calls.append(key)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        self.under_way += 1
        self.at_once.append(self.under_way)
        try:
            await asyncio.sleep(0)
            if isinstance(step, TryFailed):
                raise step
            return step if isinstance(step, bytes) else await step()
        finally:
            self.under_way -= 1


async def put(queue: Queue, number: int, **changes):
    job_id = f"job_of_{number:04}"
    request = SEAL.seal(job_id, b"request of " + job_id.encode())
    return await queue.put(job_id=job_id, sealed_request=request, **changes)


async def work_until(
    queue: Queue, caller: Scripted, is_over: Callable[[], Awaitable[bool]], rules=RULES, isolated=None
) -> None:
    """Run a worker until something is so."""
    worker = Worker("w", queue, SEAL, ACCOUNTS, caller, rules, isolated=isolated)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        while not await is_over():
            await asyncio.sleep(0.005)
    worker.stop()
    await running


def all_are(queue: Queue, state: str) -> Callable[[], Awaitable[bool]]:
    async def are() -> bool:
        return set(await queue.states()) == {state}

    return are


def failing(verdict, code="ai_timeout", retry_after_s=None, *, is_unknown=False) -> TryFailed:
    return TryFailed(verdict, Failure(code, "it did not work"), retry_after_s, is_unknown=is_unknown)


def test_jobs_are_run_as_many_at_once_as_allowed(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(20):
            await put(queue, number)

        async def slow() -> bytes:
            await asyncio.sleep(0.01)
            return b"{}"

        caller = Scripted(slow)
        await work_until(queue, caller, all_are(queue, "complete"))
        assert len(set(caller.calls)) == len(caller.calls) == 20
        assert max(caller.at_once) == 3

    run_on_queue(tmp_path, work)


def test_a_result_is_sealed_for_its_job(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        await work_until(queue, Scripted(b'{"content":"x"}'), all_are(queue, "complete"))
        request, result = await queue.database.read(lambda connection: lookup.sealed(connection, job.job_id))
        assert request is None
        assert result is not None
        assert SEAL.open(job.job_id, result) == b'{"content":"x"}'
        assert b"content" not in result

    run_on_queue(tmp_path, work)


def test_three_tries_without_an_answer_and_it_has_failed(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        caller = Scripted(failing("again"))
        await work_until(queue, caller, all_are(queue, "failed"))
        found = await queue.find(job.job_id)
        assert (found.attempts, found.error_code, len(caller.calls)) == (3, "ai_timeout", 3)
        assert set(caller.calls) == {job.job_id}

    run_on_queue(tmp_path, work)


def test_what_no_try_could_change_ends_at_the_first(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        caller = Scripted(failing("final", "ai_budget_exceeded"))
        await work_until(queue, caller, all_are(queue, "failed"))
        found = await queue.find(job.job_id)
        assert (found.attempts, found.error_code, len(caller.calls)) == (1, "ai_budget_exceeded", 1)

    run_on_queue(tmp_path, work)


def test_a_call_whose_outcome_is_unknown_is_followed_by_a_new_one(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        caller = Scripted(failing("again"), failing("lost"), failing("again", is_unknown=True), b"{}")
        await work_until(queue, caller, all_are(queue, "complete"))
        keys = [job.job_id, job.job_id, f"{job.job_id}.1", f"{job.job_id}.2"]
        assert caller.calls == keys
        assert (await queue.find(job.job_id)).attempts == 3

    run_on_queue(tmp_path, work)


def test_what_was_interrupted_beside_others_is_run_apart_and_shows_whose_doing_it_was(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(3):
            await put(queue, number)
        assert len(await queue.claim("dead", 2)) == 2
        queue.clock.advance(31)
        await queue.take_back_lapsed()
        caller, isolated = Scripted(b"{}"), Scripted(b"{}", failing("crashed", CRASHED))

        async def is_over() -> bool:
            queue.clock.advance(1)
            return await queue.states() == {"complete": 2, "failed": 1}

        await work_until(queue, caller, is_over, isolated=isolated)
        assert caller.calls == ["job_of_0002"]
        innocent, poison = isolated.calls[:2]
        assert isolated.calls == [innocent, *[poison] * 3]
        found = await queue.find(poison)
        assert (found.error_code, found.crashes, found.interruptions) == (CRASHED, 3, 1)
        assert (await queue.find(innocent)).attempts == 1

    run_on_queue(tmp_path, work)


def test_a_worker_returns_what_it_holds_and_was_never_told_of(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(2):
            await put(queue, number)
        # As if the answer to its claim had been lost.
        await queue.claim("w", 1)
        await work_until(queue, Scripted(b"{}"), all_are(queue, "complete"))
        found = await queue.find("job_of_0000")
        assert (found.attempts, found.crashes, found.interruptions, found.run) == (1, 0, 0, 2)

    run_on_queue(tmp_path, work, QueueRules(lease_s=0.3))


def test_while_the_service_is_away_jobs_wait_and_one_call_at_a_time_looks_for_it(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(12):
            await put(queue, number)
        caller = Scripted(*[failing("away", "ai_unavailable")] * 5, b"{}")

        async def is_over() -> bool:
            queue.clock.advance(1)
            return set(await queue.states()) == {"complete"}

        await work_until(queue, caller, is_over)
        assert len(caller.calls) == 12 + 5
        # Three had begun before it was known, and three looked for it: the last of them found it.
        assert caller.at_once[:6] == [1, 2, 3, 1, 1, 1]
        for number in range(12):
            found = await queue.find(f"job_of_{number:04}")
            assert found.attempts == 1

    run_on_queue(tmp_path, work)


def test_a_job_whose_call_is_not_taken_waits_without_using_up_tries(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        caller = Scripted(*[failing("wait", "ai_rate_limited", retry_after_s=5)] * 4, b"{}")

        async def is_over() -> bool:
            queue.clock.advance(1)
            return set(await queue.states()) == {"complete"}

        await work_until(queue, caller, is_over)
        assert (await queue.find(job.job_id)).attempts == 1
        assert len(caller.calls) == 5

    run_on_queue(tmp_path, work)


def test_a_worker_that_stops_finishes_what_it_holds_and_returns_the_rest(tmp_path):
    async def work(queue: Queue) -> None:
        for number in range(3):
            await put(queue, number)
        may_end = asyncio.Event()
        begun: list[int] = []

        async def held() -> bytes:
            begun.append(1)
            if len(begun) == 1:
                await may_end.wait()
                return b"{}"
            await asyncio.Event().wait()
            raise AssertionError

        worker = Worker("w", queue, SEAL, ACCOUNTS, Scripted(held), msgspec.structs.replace(RULES, stop_timeout_s=0.2))
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while len(begun) < 3:
                await asyncio.sleep(0.005)
            worker.stop()
            may_end.set()
            await running
        assert await queue.states() == {"complete": 1, "queued": 2}
        left = [await queue.find(f"job_of_{number:04}") for number in range(3)]
        assert [job.attempts for job in left if job.state == "queued"] == [0, 0]

    run_on_queue(tmp_path, work)


def test_a_worker_that_is_told_twice_to_stop_returns_all_at_once(tmp_path):
    async def work(queue: Queue) -> None:
        await put(queue, 1)
        has_begun = asyncio.Event()

        async def held() -> bytes:
            has_begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        worker = Worker("w", queue, SEAL, ACCOUNTS, Scripted(held), msgspec.structs.replace(RULES, stop_timeout_s=3600))
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            await has_begun.wait()
            worker.stop()
            await asyncio.sleep(0.05)
            assert not running.done()
            worker.stop()
            await running
        assert await queue.states() == {"queued": 1}

    run_on_queue(tmp_path, work)


def test_a_lease_that_is_prolonged_while_its_worker_leaves_is_gone_with_it(tmp_path, monkeypatch):
    """A write goes on in its thread when its task is cancelled."""

    async def work(queue: Queue) -> None:
        beat, writes = queue.beat, []

        async def slow_beat(worker: str):
            async def write():
                await asyncio.sleep(0.05)
                return await beat(worker)

            writes.append(asyncio.create_task(write()))
            return await asyncio.shield(writes[-1])

        monkeypatch.setattr(queue, "beat", slow_beat)
        worker = Worker("w", queue, SEAL, ACCOUNTS, Scripted(b"{}"), RULES)
        running = asyncio.create_task(worker.run())
        while not writes:
            await asyncio.sleep(0)
        worker.stop()
        await running
        await asyncio.gather(*writes)
        left = await queue.database.read(
            lambda connection: connection.scalars(sa.text("SELECT worker FROM ai_job_workers")).all()
        )
        assert left == []

    run_on_queue(tmp_path, work)


def test_what_the_provider_said_is_kept_sealed(tmp_path):
    async def work(queue: Queue) -> None:
        job = await put(queue, 1)
        refusal = Failure("ai_provider_rejected", "the provider refused the request", "it said: tell me a secret")
        await work_until(queue, Scripted(TryFailed("final", refusal)), all_are(queue, "failed"))
        found = await queue.find(job.job_id)
        assert found.error_message == "the provider refused the request"
        _, words = await queue.database.read(lambda connection: lookup.sealed(connection, job.job_id))
        assert words is not None
        assert SEAL.open(job.job_id, words) == b"it said: tell me a secret"
        assert b"secret" not in words
        await queue.again(job.job_id, lambda *_: None)
        assert (await queue.database.read(lambda connection: lookup.sealed(connection, job.job_id)))[1] is None

    run_on_queue(tmp_path, work)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errors.BudgetExceeded("m", status=402), "final"),
        (errors.InvalidRequest("m", status=422), "final"),
        (errors.ModuleInactive("m", status=403), "final"),
        (errors.Unauthorized("m", status=401), "away"),
        (errors.NotConnected("m"), "away"),
        (errors.GatewayError("m", status=502), "away"),
        (errors.Unavailable("m", status=503), "wait"),
        (errors.RateLimited("m", status=429), "wait"),
        (errors.IdempotencyInFlight("m", status=409), "wait"),
        (errors.RequestTimeout("m", status=408), "again"),
        (errors.CallTimeout("m", status=504), "again"),
        (errors.CallTimeout("m", status=504, may_be_billed=True, replayed=True), "lost"),
        (errors.Unavailable("m", status=503, may_be_billed=True), "again"),
        (errors.InternalError("m", status=500), "again"),
        (errors.ConnectionLost("m"), "again"),
        (errors.DeadlineExceeded("m"), "again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
@pytest.mark.engine("sqlite")
def test_what_follows_from_each_error(error, verdict):
    assert _verdict(error) == verdict
    assert _failure(error).code.startswith("ai_")
