"""Jobs as operators see them: those that failed are inspected, tried again, or dropped."""

from collections.abc import Callable

import sqlalchemy as sa

from tollhouse.audit import store as audit
from tollhouse.audit.model import AuditEntry
from tollhouse.jobs import lookup
from tollhouse.jobs.body import JobPage, KnownJob, known_job
from tollhouse.jobs.model import Job
from tollhouse.jobs.queue import JobQueue
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.storage.database import Database


class DeadLetters:
    """Every job there is, and what is done about those that failed."""

    def __init__(self, database: Database, queue: JobQueue, clock: Clock) -> None:
        self._database = database
        self._queue = queue
        self._clock = clock

    async def page(self, *, state: str | None, tenant_id: str | None, before_id: str | None, limit: int) -> JobPage:
        """Return jobs, the newest first."""
        found = await self._database.read(
            lambda connection: lookup.page(
                connection, state=state, tenant_id=tenant_id, before_id=before_id, most=limit + 1
            )
        )
        shown = found[:limit]
        return JobPage([known_job(job) for job in shown], shown[-1].job_id if len(found) > limit else None)

    async def get(self, job_id: str) -> KnownJob:
        """Return a job; raises NotFound."""
        return known_job(await self._database.read(lambda connection: self._queue.known(connection, job_id)))

    async def retry(self, job_id: str, actor: str) -> KnownJob:
        """Have done again what failed of a job; its calls are new ones, and may be paid again.

        Raises:
            NotFound: there is no such job.
            Conflict: nothing of it has failed.
        """
        return known_job(await self._queue.again(job_id, self._entry("job.retried", actor)))

    async def drop(self, job_id: str, actor: str) -> None:
        """Forget a job that is over; raises NotFound, Conflict."""
        await self._queue.drop(job_id, self._entry("job.dropped", actor))

    def _entry(self, action: str, actor: str) -> Callable[[sa.Connection, Job], None]:
        def write(connection: sa.Connection, job: Job) -> None:
            told = {"status": job.state, "error": job.error_code}
            now = utc_text(self._clock.now_ms())
            audit.append(connection, AuditEntry(now, actor, action, job.tenant_id, job.job_id, None, told))

        return write
