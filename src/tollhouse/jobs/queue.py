"""The queue: all that anybody does to a job, each in one transaction with the event that tells of it."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import sqlalchemy as sa

from tollhouse.errors import Conflict, IdempotencyMismatch, NotFound
from tollhouse.events import outbox
from tollhouse.jobs import lookup, store
from tollhouse.jobs.model import Claimed, Failure, Job, NewJob, event_of
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

_MS_PER_HOUR = 3_600_000
_AT_ONCE = 100
_END_OF_TIME_MS = 2**62
CRASHED = "ai_job_crashed"


class QueueRules(msgspec.Struct, frozen=True):
    """What holds for every job.

    Attributes:
        lease_s: for how long a worker that says nothing is waited for.
        max_crashes: after so many workers that died with it, a job is set aside.
        keep_hours: for how long a job that is over is kept, with its result.
    """

    lease_s: float = 30.0
    max_crashes: int = 3
    keep_hours: int = 168


class JobQueue:
    """Jobs in the database, on either engine.

    Args:
        time_ms: the time that leases are judged by.

    Attributes:
        time_ms: as given.
        arrived: set when something may have become due in this process.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        rules: QueueRules,
        time_ms: Callable[[sa.Connection], int] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self.time_ms = time_ms or (lambda connection: store.database_ms(connection, clock))
        self.rules = rules
        self.arrived = asyncio.Event()

    async def add(self, job: NewJob) -> Job:
        """Queue a job, or return the one that was asked for under its claim before.

        Raises:
            IdempotencyMismatch: something else was asked for under that claim.
        """
        added = await self._database.write(lambda connection: self.add_within(connection, job))
        self.arrived.set()
        return added

    def add_within(self, connection: sa.Connection, job: NewJob) -> Job:
        """Queue a job in a transaction; raises as ``add``."""
        known = None if job.claim_id is None else lookup.find_claim(connection, job.claim_id)
        if known is not None:
            if known.body_digest != job.body_digest:
                raise IdempotencyMismatch("this Idempotency-Key was used for another job; use a new key")
            return known
        added = store.add(connection, job, self.time_ms(connection))
        self._tell(connection, added, "queued")
        return added

    async def claim(self, worker: str, most: int) -> list[Claimed]:
        """Give a worker up to so many jobs, whose turn it is."""

        def work(connection: sa.Connection) -> list[Claimed]:
            now_ms = self.time_ms(connection)
            claimed, begun = store.claim(
                connection, worker, most, now_ms=now_ms, lease_ms=self._lease_ms(now_ms), now=self._now()
            )
            for job in begun:
                self._tell(connection, job, "started")
            return claimed

        return await self._database.write(work)

    async def beat(self, runs: Mapping[str, int]) -> set[str]:
        """Prolong a worker's leases, by the runs of its jobs; return the ids of those that it still holds."""
        return await self._database.write(
            lambda connection: store.beat(connection, runs, self._lease_ms(self.time_ms(connection)))
        )

    async def complete(self, job: Job, sealed_result: bytes) -> bool:
        """End a job with its result; False when it is no longer that run's, and nothing was written."""

        def work(connection: sa.Connection) -> store.Ended:
            now, expires_at = self._now(), self._expires_at()
            ended = store.end(connection, job, "complete", now=now, expires_at=expires_at, sealed_result=sealed_result)
            self._tell_of(connection, ended)
            return ended

        return (await self._database.write(work)).is_held

    async def fail(self, job: Job, failure: Failure) -> bool:
        """End a job without a result; False as ``complete``."""

        def work(connection: sa.Connection) -> store.Ended:
            now, expires_at = self._now(), self._expires_at()
            ended = store.end(connection, job, "failed", now=now, expires_at=expires_at, failure=failure)
            self._tell_of(connection, ended)
            return ended

        return (await self._database.write(work)).is_held

    async def try_again(self, job: Job, pause_s: float) -> bool:
        """Queue a job for its next try; False as ``complete``."""
        return await self._put_off(job, pause_s)

    async def wait(self, job: Job, pause_s: float) -> bool:
        """Queue a job again whose try could not be made: it does not count. False as ``complete``."""
        return await self._put_off(job, pause_s, attempts=-1, delays=1)

    async def give_back(self, job: Job) -> bool:
        """Queue a job again that a worker cannot finish before it stops; False as ``complete``."""
        return await self._put_off(job, 0.0, attempts=-1)

    async def _put_off(self, job: Job, pause_s: float, **counts: int) -> bool:
        def work(connection: sa.Connection) -> bool:
            due_ms = self.time_ms(connection) + round(pause_s * 1000)
            return store.put_off(connection, job, due_ms, **counts)

        return await self._database.write(work)

    async def take_back_lapsed(self) -> int:
        """Queue what dead workers held again, and set aside what several of them died with; return how many."""
        return await self._take_back(None)

    async def take_back_all(self) -> int:
        """Do so with all that is under way: for a database whose only worker begins anew; return how many."""
        taken = 0
        while more := await self._take_back(_END_OF_TIME_MS):
            taken += more
        return taken

    async def _take_back(self, lapsed_at_ms: int | None) -> int:
        def work(connection: sa.Connection) -> int:
            now_ms = self.time_ms(connection)
            until_ms = now_ms if lapsed_at_ms is None else lapsed_at_ms
            # In one order, so that no two that do so wait for each other.
            lapsed = sorted(store.lapsed(connection, until_ms, _AT_ONCE), key=_by_tenant)
            return sum(self._take_back_one(connection, job, now_ms, until_ms) for job in lapsed)

        taken = await self._database.write(work)
        if taken:
            self.arrived.set()
        return taken

    def _take_back_one(self, connection: sa.Connection, job: Job, now_ms: int, until_ms: int) -> bool:
        crashes = job.crashes + 1
        if crashes < self.rules.max_crashes:
            return store.put_off(connection, job, now_ms, crashes=1, lapsed_at_ms=until_ms)
        ended = store.end(
            connection,
            job,
            "failed",
            now=self._now(),
            expires_at=self._expires_at(),
            failure=Failure(CRASHED, f"{crashes} workers ended while they ran it, and it is set aside"),
            crashes=1,
            lapsed_at_ms=until_ms,
        )
        self._tell_of(connection, ended)
        return ended.is_held

    async def cancel(self, job_id: str) -> Job:
        """End what of a job has not been started.

        Raises:
            NotFound: there is no such job.
            Conflict: all of it has been started, or it is over.
        """

        def work(connection: sa.Connection) -> Job:
            cancelled = store.cancel(connection, job_id, now=self._now(), expires_at=self._expires_at())
            if cancelled is None:
                job = self.known(connection, job_id)
                raise Conflict(f"{job_id} is {job.state}; only what has not been started can be cancelled")
            self._tell(connection, cancelled, "cancelled")
            return cancelled

        return await self._database.write(work)

    async def again(self, job_id: str, then: Callable[[sa.Connection, Job], None]) -> Job:
        """Queue a job again that failed, or the parts of it that did; raises NotFound, Conflict.

        Args:
            then: what else is written in the same transaction.
        """

        def work(connection: sa.Connection) -> Job:
            job = self.known(connection, job_id)
            queued = store.again(connection, job, self.time_ms(connection))
            if queued is None:
                raise Conflict(f"{job_id} is {job.state}; only what has failed can be tried again")
            self._tell(connection, queued, "queued")
            then(connection, queued)
            return queued

        job = await self._database.write(work)
        self.arrived.set()
        return job

    async def drop(self, job_id: str, then: Callable[[sa.Connection, Job], None]) -> None:
        """Forget a job that is over; raises NotFound, Conflict.

        Args:
            then: what else is written in the same transaction.
        """

        def work(connection: sa.Connection) -> None:
            job = self.known(connection, job_id)
            if not store.drop(connection, [job_id]):
                raise Conflict(f"{job_id} is {job.state}; only what is over can be dropped")
            then(connection, job)

        await self._database.write(work)

    async def forget_expired(self) -> int:
        """Delete the jobs that were kept for long enough, a bounded number in each transaction; return how many."""
        now = self._now()
        forgotten = 0
        while some := await self._database.write(
            lambda connection: store.drop(connection, lookup.expired(connection, now, _AT_ONCE))
        ):
            forgotten += some
        return forgotten

    def known(self, connection: sa.Connection, job_id: str) -> Job:
        """Return a job that has no parent; raises NotFound."""
        job = lookup.find(connection, job_id)
        if job is None or job.parent_id:
            raise NotFound(f"there is no job {job_id}, or it is kept no longer")
        return job

    def _tell(self, connection: sa.Connection, job: Job, what: str) -> None:
        outbox.append(connection, event_of(job, what, self._clock.now_ms()))

    def _tell_of(self, connection: sa.Connection, ended: store.Ended) -> None:
        if ended.over is not None:
            word = "completed" if ended.over.state == "complete" else "failed"
            self._tell(connection, ended.over, word)
        elif ended.went_on is not None and _is_worth_telling(ended.went_on):
            self._tell(connection, ended.went_on, "progressed")

    def _now(self) -> str:
        return utc_text(self._clock.now_ms())

    def _expires_at(self) -> str:
        return utc_text(self._clock.now_ms() + self.rules.keep_hours * _MS_PER_HOUR)

    def _lease_ms(self, now_ms: int) -> int:
        return now_ms + round(self.rules.lease_s * 1000)


def _by_tenant(job: Job) -> tuple[str, str]:
    return job.tenant_id, job.job_id


def _is_worth_telling(job: Job) -> bool:
    """Whether another tenth of a job's parts is done."""
    done = job.parts_complete + job.parts_failed
    return done * 10 // job.parts > (done - 1) * 10 // job.parts
