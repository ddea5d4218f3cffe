"""The queue: all that anybody does to a job, each in one transaction with the event that tells of it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from tollhouse.errors import Conflict, IdempotencyMismatch, NotFound, RateLimited
from tollhouse.events import outbox
from tollhouse.jobs import leases, lookup, store, totals, turns
from tollhouse.jobs.model import Claimed, Failure, Job, NewJob, event_of
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database

_MS_PER_HOUR = 3_600_000
# Rows: while an embedded database is written, calls wait.
_FORGOTTEN_AT_ONCE = 500
_END_OF_TIME_MS = 2**62
CRASHED = "ai_job_crashed"
# A job that ends whole machines is never seen to do so alone. One that was there so much more often is taken for it.
_MOST_INTERRUPTIONS = 10
_LONGEST_REST_S = 60.0


class QueueRules(msgspec.Struct, frozen=True):
    """What holds for every job.

    Attributes:
        lease_s: for how long a worker that says nothing is waited for.
        max_crashes: after so many workers that died of it, a job is set aside.
        keep_hours: for how long a job that is over is kept, with its result.
        max_queued_per_tenant: how many completions of a tenant may wait or be under way.
    """

    lease_s: float = 30.0
    max_crashes: int = 3
    keep_hours: int = 168
    max_queued_per_tenant: int = 100_000


class JobQueue:
    """Jobs in the database, on either engine.

    Args:
        time_ms: the time that leases are judged by.
        arrived: see below; that of another queue object where this one is the same queue.

    Attributes:
        time_ms: as given.
        arrived: set when something may have become due in this process.
        ended: how many runs ended how, by this process, and are not in the totals yet.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        rules: QueueRules,
        time_ms: Callable[[sa.Connection], int] | None = None,
        arrived: asyncio.Event | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self.time_ms = time_ms or (lambda connection: store.database_ms(connection, clock))
        self.rules = rules
        self.arrived = arrived or asyncio.Event()
        self._found_none = False
        self.ended = totals.Counts()

    def over(self, database: Database) -> "JobQueue":
        """Return the same queue over other connections to its database; what arrives here arrives there."""
        return JobQueue(database, self._clock, self.rules, self.time_ms, self.arrived)

    async def add(self, job: NewJob) -> Job:
        """Queue a job, or return the one that was asked for under its claim before.

        Raises:
            IdempotencyMismatch: something else was asked for under that claim.
            RateLimited: too many of the tenant's completions wait or are under way.
            InvalidRequest: it has more of them than may ever be.
        """

        def work(connection: sa.Connection) -> Job | RateLimited:
            try:
                return self.add_within(connection, job)
            except RateLimited as refused:
                # Returned, so that what was counted for it is committed, and not counted anew for the next.
                return refused

        added = await self._database.write(work)
        if isinstance(added, RateLimited):
            raise added
        self.arrived.set()
        return added

    def add_within(self, connection: sa.Connection, job: NewJob) -> Job:
        """Queue a job in a transaction; raises as ``add``, and refused, it may be committed all the same."""
        known = self.asked_before(connection, job)
        if known is not None:
            return known
        now_ms = self.time_ms(connection)
        most = self.rules.max_queued_per_tenant
        turns.take_places(connection, job.tenant_id, job.completions, most=most, now_ms=now_ms)
        if job.claim_id is not None:
            # One whose time is over may still be there, and have the claim.
            store.free_claim(connection, job.claim_id, self._now())
        added = store.add(connection, job, now_ms)
        self._tell(connection, added, "queued")
        return added

    def asked_before(self, connection: sa.Connection, job: NewJob) -> Job | None:
        """Return the job that was asked for under the claim of another, if it is still kept; raises as ``add``."""
        known = None if job.claim_id is None else lookup.find_claim(connection, job.claim_id)
        if known is None or not known.is_kept(self._now()):
            return None
        if known.body_digest != job.body_digest:
            raise IdempotencyMismatch("this Idempotency-Key was used for another job; use a new key")
        return known

    async def claim(self, worker: str, most: int) -> list[Claimed]:
        """Give a worker up to so many jobs, whose turn it is, and prolong its lease."""
        # Idle workers look often: by reading, so that on the embedded database no call waits for them.
        if self._found_none and not await self._database.read(self._is_anyone_waiting):
            return []

        def work(connection: sa.Connection) -> list[Claimed]:
            now_ms, now = self.time_ms(connection), self._now()
            if not store.is_anyone_waiting(connection, now_ms):
                return []
            leases.prolong(connection, worker, self._lease_ms(now_ms), now)
            claimed, begun = store.claim(connection, worker, most, now_ms=now_ms, now=now)
            self._tell_all(connection, begun, "started")
            return claimed

        claimed = await self._database.write(work)
        self._found_none = not claimed
        return claimed

    def _is_anyone_waiting(self, connection: sa.Connection) -> bool:
        return store.is_anyone_waiting(connection, self.time_ms(connection))

    async def beat(self, worker: str) -> Mapping[str, int]:
        """Prolong a worker's lease, and add to the totals; return the runs of all that it holds, by the jobs' ids."""
        counted = self.ended.copy()

        def work(connection: sa.Connection) -> Mapping[str, int]:
            leases.prolong(connection, worker, self._lease_ms(self.time_ms(connection)), self._now())
            totals.add(connection, counted)
            return leases.runs_of(connection, worker)

        runs = await self._database.write(work)
        self.ended.subtract(counted)
        return runs

    async def leave(self, worker: str) -> None:
        """Queue again what a worker that ends still holds, which uses up nothing, and forget the worker."""
        counted = self.ended.copy()

        def work(connection: sa.Connection) -> None:
            now_ms = self.time_ms(connection)
            leases.prolong(connection, worker, self._lease_ms(now_ms), self._now())
            for job in leases.held_by(connection, worker):
                store.put_off(connection, _unstarted(job), now_ms)
            leases.leave(connection, worker)
            totals.add(connection, counted)

        await self._database.write(work)
        self.ended.subtract(counted)

    async def complete(self, job: Job, sealed_result: bytes) -> bool:
        """End a job with its result; False when it is no longer that run's, and nothing was written."""
        return await self._write_end(job, "complete", lambda connection: self._end(connection, job, sealed_result))

    async def fail(self, job: Job, failure: Failure, sealed_words: bytes | None = None) -> bool:
        """End a job without a result; False as ``complete``.

        Args:
            sealed_words: what the provider said.
        """
        return await self._write_end(
            job, "failed", lambda connection: self._fail(connection, job, failure, sealed_words)
        )

    async def crashed(self, job: Job) -> bool:
        """Count a crash of what ran a job alone, while its worker lives; False as ``complete``."""

        def work(connection: sa.Connection) -> str | None:
            return self._interrupt(connection, job, self.time_ms(connection), is_alone=True)

        outcome = await self._database.write(work)
        if outcome is not None:
            self.ended[job.queue, outcome] += 1
        return outcome is not None

    async def try_again(self, job: Job, pause_s: float, *, anew: bool = False) -> bool:
        """Queue a job for its next try; False as ``complete``.

        Args:
            anew: whether that is a new call, since what came of this one is not known, and is not going to be told.
        """
        # It has been run without harm to its worker.
        tried = msgspec.structs.replace(job, delays=0, interruptions=0, generation=job.generation + anew)
        return await self._put_off(tried, "tried_again", pause_s)

    async def wait(self, job: Job, pause_s: float) -> bool:
        """Queue a job again whose try could not be made: it does not count. False as ``complete``."""
        return await self._put_off(_unstarted(job, delays=job.delays + 1), "put_off", pause_s)

    async def renew(self, job: Job) -> bool:
        """Queue a job for a new call, as the answer of an earlier try's is lost; this one did not count."""
        return await self._put_off(_unstarted(job, generation=job.generation + 1), "renewed", 0.0)

    async def give_back(self, job: Job) -> bool:
        """Queue a job again that a worker cannot finish before it stops; False as ``complete``."""
        return await self._put_off(_unstarted(job), "given_back", 0.0)

    async def return_unknown(self, job_id: str, run: int) -> bool:
        """Queue a run again that its worker does not know of; False as ``complete``."""
        job = await self._database.read(lambda connection: lookup.find(connection, job_id))
        return job is not None and job.run == run and await self.give_back(job)

    async def _put_off(self, job: Job, outcome: str, pause_s: float) -> bool:
        def work(connection: sa.Connection) -> bool:
            return store.put_off(connection, job, self.time_ms(connection) + round(pause_s * 1000))

        return await self._write_end(job, outcome, work)

    async def _write_end(self, job: Job, outcome: str, work: Callable[[sa.Connection], bool]) -> bool:
        is_held = await self._database.write(work)
        if is_held:
            self.ended[job.queue, outcome] += 1
        return is_held

    def _end(self, connection: sa.Connection, job: Job, sealed_result: bytes) -> bool:
        now, expires_at = self._now(), self._expires_at()
        ended = store.end(connection, job, "complete", now=now, expires_at=expires_at, sealed_result=sealed_result)
        return self._tell_of(connection, ended)

    def _fail(self, connection: sa.Connection, job: Job, failure: Failure, sealed_words: bytes | None = None) -> bool:
        now, expires_at = self._now(), self._expires_at()
        ended = store.end(
            connection, job, "failed", now=now, expires_at=expires_at, sealed_result=sealed_words, failure=failure
        )
        return self._tell_of(connection, ended)

    async def take_back_lapsed(self) -> int:
        """Queue what dead workers held again, and set aside what several of them died of; return how many jobs."""
        return await self._take_back(None)

    async def take_back_all(self) -> int:
        """Do so with all that is under way: for a database whose only worker begins anew; return how many jobs."""
        return await self._take_back(_END_OF_TIME_MS)

    async def _take_back(self, lapsed_at_ms: int | None) -> int:
        """Take the jobs of dead workers back, those of all that are found dead at once in one transaction."""

        def work(connection: sa.Connection) -> tuple[int, list[tuple[Job, str]]]:
            now_ms = self.time_ms(connection)
            held: list[tuple[Job, bool]] = []
            dead = leases.dead(connection, now_ms if lapsed_at_ms is None else lapsed_at_ms)
            for worker in dead:
                jobs = leases.held_by(connection, worker)
                held += [(job, len(jobs) == 1) for job in jobs]
                leases.leave(connection, worker)
            # In one order, so that no two that do so wait for each other.
            outcomes = [
                (job, self._interrupt(connection, job, now_ms, is_alone=is_alone))
                for job, is_alone in sorted(held, key=_by_tenant)
            ]
            return len(dead), [(job, outcome) for job, outcome in outcomes if outcome is not None]

        count, dead = 0, 1
        while dead:
            dead, taken = await self._database.write(work)
            for job, outcome in taken:
                self.ended[job.queue, outcome] += 1
            count += len(taken)
        if count:
            self.arrived.set()
        return count

    def _interrupt(self, connection: sa.Connection, job: Job, now_ms: int, *, is_alone: bool) -> str | None:
        """Queue a job again whose worker ended, or set it aside; return which, or None where it is not that run's.

        What a worker held beside others may be innocent: its start is given back, and from now on it is run in a
        process of its own (``isolation``), which shows whose doing it is.
        """
        if is_alone:
            counted = msgspec.structs.replace(job, crashes=job.crashes + 1)
        else:
            counted = _unstarted(job, interruptions=job.interruptions + 1)
        most = self.rules.max_crashes
        deaths = counted.crashes + counted.interruptions
        if counted.crashes >= most or counted.interruptions >= most * _MOST_INTERRUPTIONS:
            failure = Failure(CRASHED, f"{deaths} workers ended while they ran it, and it is set aside")
            return "set_aside" if self._fail(connection, counted, failure) else None
        rest_s = min(_LONGEST_REST_S, self.rules.lease_s / 10 * (2.0 ** (deaths - 1) - 1))
        if not store.put_off(connection, counted, now_ms + round(rest_s * 1000)):
            return None
        return "crashed" if is_alone else "interrupted"

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
            lambda connection: store.drop(connection, lookup.expired(connection, now, _FORGOTTEN_AT_ONCE))
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
        self._tell_all(connection, [job], what)

    def _tell_all(self, connection: sa.Connection, jobs: Sequence[Job], what: str) -> None:
        at_ms = self._clock.now_ms()
        outbox.append_all(connection, [event_of(job, what, at_ms) for job in jobs])

    def _tell_of(self, connection: sa.Connection, ended: store.Ended) -> bool:
        """Tell what the end of a job came to; return whether there was one."""
        if ended.over is not None:
            word = "completed" if ended.over.state == "complete" else "failed"
            self._tell(connection, ended.over, word)
        elif ended.went_on is not None and _is_worth_telling(ended.went_on):
            self._tell(connection, ended.went_on, "progressed")
        return ended.is_held

    def _now(self) -> str:
        return utc_text(self._clock.now_ms())

    def _expires_at(self) -> str:
        return utc_text(self._clock.now_ms() + self.rules.keep_hours * _MS_PER_HOUR)

    def _lease_ms(self, now_ms: int) -> int:
        return now_ms + round(self.rules.lease_s * 1000)


def _unstarted(job: Job, **counts: int) -> Job:
    """Return a job whose start is given back."""
    return msgspec.structs.replace(job, attempts=job.attempts - 1, **counts)


def _by_tenant(held: tuple[Job, bool]) -> tuple[str, str]:
    return held[0].tenant_id, held[0].job_id


def _is_worth_telling(job: Job) -> bool:
    """Whether another tenth of a job's parts is done."""
    done = job.parts_complete + job.parts_failed
    return done * 10 // job.parts > (done - 1) * 10 // job.parts
