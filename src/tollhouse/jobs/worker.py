"""A worker: claims jobs, makes their calls, and writes what came of them, for as long as it holds their leases."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol

import msgspec
import structlog

from tollhouse.errors import TollhouseError, Unavailable
from tollhouse.jobs.calling import JobCall, TryFailed
from tollhouse.jobs.model import Claimed, Failure, Job
from tollhouse.jobs.queue import JobQueue
from tollhouse.jobs.sealing import Seal
from tollhouse.keys.charging import Accounts
from tollhouse.kit.waiting import is_set_within

_LOG = structlog.get_logger("tollhouse.worker")
# How long nothing is asked of a service that cannot be reached: from, and up to.
_FIRST_AWAY_S = 0.5
_LONGEST_AWAY_S = 10.0
_LONGEST_WAIT_S = 60.0
_LONGEST_PAUSE_S = 600.0
_WRITE_AGAIN_S = 0.5
# Expired jobs are deleted now and then by each worker.
_FORGET_EVERY_S = 300.0
_FIRE_EVERY_S = 1.0


class Caller(Protocol):
    """Makes a job's call."""

    async def call(self, call: JobCall) -> bytes:
        """Return the answer's JSON; raises TryFailed."""


class WorkerRules(msgspec.Struct, frozen=True):
    """How a worker goes about its jobs.

    Attributes:
        concurrency: how many calls it has under way at once.
        max_tries: after so many tries without an answer, a job has failed.
        retry_pause_s: the pause after the first of them; it doubles from try to try.
        poll_s: how often it looks for jobs while there are none.
        stop_timeout_s: for how long it finishes what it holds, once it is to stop.
    """

    concurrency: int = 8
    max_tries: int = 3
    retry_pause_s: float = 5.0
    poll_s: float = 0.5
    stop_timeout_s: float = 75.0


class Worker:
    """Runs jobs until it is stopped.

    Args:
        name: tells it from other workers.
        accounts: signs that calls are made on the account of who asked for the job.
        isolated: makes the calls of jobs that a worker may have died of, each where it can end nothing else.
        fire_due: makes the jobs of schedules that are due.
    """

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        seal: Seal,
        accounts: Accounts,
        caller: Caller,
        rules: WorkerRules,
        *,
        isolated: Caller | None = None,
        fire_due: Callable[[], Coroutine[None, None, object]] | None = None,
    ) -> None:
        self._isolated = isolated or caller
        self._fire_due = fire_due
        self._name = name
        self._queue = queue
        self._seal = seal
        self._accounts = accounts
        self._caller = caller
        self._rules = rules
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._is_stopping = False
        self._gives_up = False
        self._beaten_s = -math.inf
        self._unknown: set[tuple[str, int]] = set()
        self._away = 0
        self._away_until_s = 0.0
        self._has_ended = asyncio.Event()

    async def run(self) -> None:
        """Work until ``stop`` is called, then finish what is held, or return it to the queue."""
        keeping = asyncio.create_task(self._regularly(self._keep_leases, self._queue.rules.lease_s / 3, is_first=True))
        duties = [asyncio.create_task(self._regularly(self._queue.forget_expired, _FORGET_EVERY_S))]
        if self._fire_due is not None:
            duties.append(asyncio.create_task(self._regularly(self._fire_due, _FIRE_EVERY_S)))
        try:
            while not self._is_stopping:
                await self._round()
            await self._finish()
        finally:
            self._has_ended.set()
            for duty in duties:
                duty.cancel()
            # A write goes on in its thread when its task is cancelled: one that prolongs the lease has to end before
            # this worker leaves, or would bring it back.
            await asyncio.wait([keeping, *duties])
        try:
            await self._queue.leave(self._name)
        except Unavailable as error:
            _LOG.warning("what is left is taken back once the lease is over", reason=error.message)

    def stop(self) -> None:
        """Claim nothing more, and end what is under way; called once more, return that at once."""
        if self._is_stopping:
            self._gives_up = True
            for _, task in self._running.values():
                task.cancel()
        self._is_stopping = True
        self._queue.arrived.set()

    async def _round(self) -> None:
        """Claim what there is room for, then wait until there may be more."""
        arrived = self._queue.arrived
        arrived.clear()
        loop = asyncio.get_running_loop()
        rest_s = self._away_until_s - loop.time()
        room = self._rules.concurrency - len(self._running)
        if self._away:
            # One call finds out whether the service is back.
            room = min(room, 1 - len(self._running))
        claimed: list[Claimed] = []
        if room > 0 and rest_s <= 0:
            try:
                claimed = await self._queue.claim(self._name, room)
            except Unavailable as error:
                _LOG.warning("no jobs can be claimed just now", reason=error.message)
            except Exception:  # noqa: BLE001 - a worker goes on, whatever happens to it
                _LOG.exception("claiming failed on a defect")
        for each in claimed:
            self._begin(each)
        if claimed and len(claimed) == room and not self._away:
            return
        poll_s = self._rules.poll_s * random.uniform(0.75, 1.25)  # noqa: S311 - it spreads load
        await is_set_within(arrived, max(rest_s, poll_s) if rest_s > 0 else poll_s)

    def _begin(self, claimed: Claimed) -> None:
        job = claimed.job
        task = asyncio.create_task(self._work(claimed))
        self._running[job.job_id] = (job, task)
        task.add_done_callback(lambda _: self._leave(job))

    def _leave(self, job: Job) -> None:
        held = self._running.get(job.job_id)
        if held is not None and held[0].run == job.run:
            del self._running[job.job_id]
        self._queue.arrived.set()

    async def _work(self, claimed: Claimed) -> None:
        """Make one try of a job, and write what came of it."""
        job = claimed.job
        try:
            request = self._seal.open(job.job_id, claimed.sealed_request)
            # What was under way beside others when its worker ended shows by itself whether that was its doing.
            caller = self._isolated if job.interruptions else self._caller
            account = self._accounts.sign(job.key_id, job.service, job.idempotency_key)
            answer = await caller.call(JobCall(request, job.idempotency_key, account))
        except TryFailed as failed:
            await self._after(job, failed)
        except TollhouseError as error:
            await self._fail(job, Failure(error.code, error.message))
        except Exception:  # noqa: BLE001 - a defect in one job must not end the worker
            _LOG.exception("a job failed on a defect", job_id=job.job_id)
            defect = TryFailed("again", Failure("ai_internal_error", "something went wrong; it has been logged"))
            await self._after(job, defect)
        else:
            self._is_back()
            sealed = self._seal.seal(job.job_id, answer)
            await self._write(job, lambda: self._queue.complete(job, sealed))

    async def _fail(self, job: Job, failure: Failure) -> None:
        said = self._seal.seal(job.job_id, failure.said.encode()) if failure.said else None
        await self._write(job, lambda: self._queue.fail(job, failure, said))

    async def _after(self, job: Job, failed: TryFailed) -> None:
        """Decide what follows a try without an answer."""
        failure, verdict = failed.failure, failed.verdict
        told = {"job_id": job.job_id, "code": failure.code}
        if verdict == "away":
            pause_s = self._is_away(failure)
            await self._write(job, lambda: self._queue.wait(job, pause_s))
            return
        if verdict == "crashed":
            _LOG.error("a job ended the process that ran it", **told, reason=failure.message)
            await self._write(job, lambda: self._queue.crashed(job))
            return
        self._is_back()
        if verdict == "lost":
            _LOG.warning("a job's call is made anew, as what came of the one before is lost", **told)
            await self._write(job, lambda: self._queue.renew(job))
        elif verdict == "wait":
            waited_s = _jittered(min(_LONGEST_WAIT_S, 2.0 ** min(job.delays, 10)))
            pause_s = max(waited_s, failed.retry_after_s or 0.0)
            _LOG.info("a job waits", **told, pause_s=round(pause_s, 1))
            await self._write(job, lambda: self._queue.wait(job, pause_s))
        elif verdict == "final" or job.tries >= self._rules.max_tries:
            _LOG.warning("a job failed", **told, tries=job.tries)
            await self._fail(job, failure)
        else:
            longest_s = self._rules.retry_pause_s * 2.0 ** (job.tries - 1)
            pause_s = _jittered(min(_LONGEST_PAUSE_S, longest_s))
            _LOG.info("a job is tried again", **told, tries=job.tries, pause_s=round(pause_s, 1))
            await self._write(job, lambda: self._queue.try_again(job, pause_s, anew=failed.is_unknown))

    def _is_away(self, failure: Failure) -> float:
        """Note that the service cannot be reached; return for how long to leave it alone."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._away_until_s:
            pause_s = _jittered(min(_LONGEST_AWAY_S, _FIRST_AWAY_S * 2.0 ** min(self._away, 10)))
            if self._away == 0:
                _LOG.error("the AI Service cannot be reached; jobs wait", reason=failure.message)
            self._away += 1
            self._away_until_s = loop.time() + pause_s
        return max(0.0, self._away_until_s - loop.time())

    def _is_back(self) -> None:
        if self._away:
            _LOG.info("the AI Service answers again")
        self._away = 0
        self._away_until_s = 0.0

    async def _write(self, job: Job, write: Callable[[], Awaitable[bool]]) -> None:
        """Write what came of a job, for as long as its lease may last."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._queue.rules.lease_s
        while True:
            try:
                if not await write():
                    _LOG.warning("a job had become another worker's; nothing was written", job_id=job.job_id)
            except Unavailable as error:
                if loop.time() < give_up_s:
                    await asyncio.sleep(_WRITE_AGAIN_S)
                    continue
                # Whoever runs it next gets the answer that is kept for its idempotency key.
                _LOG.error("what came of a job could not be written", job_id=job.job_id, reason=error.message)
            return

    async def _keep_leases(self) -> None:
        """Prolong the lease, and take back what dead workers held."""
        held = await self._queue.beat(self._name)
        loop = asyncio.get_running_loop()
        lease_s = self._queue.rules.lease_s
        last_s, self._beaten_s = self._beaten_s, loop.time()
        for job_id, (job, task) in self._running.items():
            if held.get(job_id) != job.run and not task.done():
                _LOG.warning("a job has become another worker's", job_id=job_id)
        await self._return_unknown(held)
        # Where this one could not say anything for so long, the others could not either, and are not dead for that.
        if self._beaten_s - last_s < lease_s:
            await self._queue.take_back_lapsed()

    async def _return_unknown(self, held: Mapping[str, int]) -> None:
        """Give back what this worker holds and does not know of: the answer to a claim, or to a result, was lost."""
        known = {(job_id, job.run) for job_id, (job, _) in self._running.items()}
        unknown = held.items() - known
        # Those that are still so the next time: what is claimed or ended just now is not known either.
        for job_id, run in unknown & self._unknown:
            _LOG.warning("a job is held and not known, and is given back", job_id=job_id)
            await self._queue.return_unknown(job_id, run)
        self._unknown = unknown

    async def _regularly(
        self, duty: Callable[[], Coroutine[None, None, object]], every_s: float, *, is_first: bool = False
    ) -> None:
        """Do something now and then until this worker has ended, also at once where it ``is_first``."""
        while not await is_set_within(self._has_ended, 0 if is_first else every_s):
            is_first = False
            try:
                await duty()
            except Unavailable as error:
                _LOG.warning("a worker's duty is done later", reason=error.message)
            except Exception:  # noqa: BLE001 - logged, and done again
                _LOG.exception("a worker's duty failed on a defect")

    async def _finish(self) -> None:
        """Let what is under way end, and stop the rest, which goes back to the queue as this worker leaves."""
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _LOG.info("finishing what is under way", jobs=len(tasks))
            await asyncio.wait(tasks, timeout=0 if self._gives_up else self._rules.stop_timeout_s)
        left = [task for _, task in self._running.values()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _jittered(seconds: float) -> float:
    """Return a length of time, shortened at random by up to a half."""
    return random.uniform(seconds / 2, seconds)  # noqa: S311 - it spreads load
