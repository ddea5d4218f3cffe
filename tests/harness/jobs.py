"""A queue of jobs on a database of its own, with short words for what tests do to it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from harness.books import open_books
from harness.clock import FakeClock
from tollhouse.jobs import lookup
from tollhouse.jobs.model import JOBS_QUEUE, Job, NewJob, Part
from tollhouse.jobs.queue import JobQueue, QueueRules
from tollhouse.kit.clock import utc_text
from tollhouse.storage.database import Database

_numbers = count(1)


class Queue(JobQueue):
    """A queue whose leases a test's clock judges."""

    def __init__(self, database: Database, clock: FakeClock, rules: QueueRules | None = None) -> None:
        super().__init__(database, clock, rules or QueueRules(), lambda _: clock.now_ms())
        self.database = database
        self.clock = clock

    async def told(self) -> list[tuple[str, str]]:
        """Return the last words of each event's type and what it is about, in the order of writing."""
        statement = sa.text("SELECT type, subject FROM ai_events ORDER BY id")
        found = await self.database.read(lambda connection: connection.execute(statement).all())
        return [(each.type.removeprefix("ai."), each.subject) for each in found]

    async def put(self, tenant_id: str = "42", parts: int = 0, **changes: Any) -> Job:
        """Queue a job."""
        return await self.add(new_job(self.clock, tenant_id, parts, **changes))

    async def next(self, worker: str = "w") -> Job | None:
        """Claim one job."""
        claimed = await self.claim(worker, 1)
        return claimed[0].job if claimed else None

    async def find(self, job_id: str) -> Job:
        found = await self.database.read(lambda connection: lookup.find(connection, job_id))
        assert found is not None, job_id
        return found

    async def states(self) -> Counter[str]:
        """Count jobs, and parts, by their state."""
        statement = sa.text("SELECT state FROM ai_jobs")
        found = await self.database.read(lambda connection: connection.scalars(statement).all())
        return Counter(found)


def new_job(clock: FakeClock, tenant_id: str = "42", parts: int = 0, **changes: Any) -> NewJob:
    """Return a job to be queued."""
    job_id = f"job_{next(_numbers):06}"
    fields: dict[str, Any] = {
        "job_id": job_id,
        "queue": JOBS_QUEUE,
        "tenant_id": tenant_id,
        "user_id": "u",
        "feature_slug": "f",
        "model": "m",
        "service": "shop",
        "key_id": "k",
        "created_at": utc_text(clock.now_ms()),
        "sealed_request": b"request",
        "parts": tuple(Part(f"{job_id}.{part:04}", b"part %d" % part) for part in range(parts)),
    }
    return NewJob(**fields | changes)


def run_on_queue(tmp_path: Path, work: Callable[[Queue], Awaitable[None]], rules: QueueRules | None = None) -> None:
    """Run a test on a queue of its own."""

    async def main() -> None:
        clock = FakeClock()
        async with open_books(tmp_path / "t.db", clock) as books:
            await work(Queue(books.database, clock, rules))

    asyncio.run(main())
