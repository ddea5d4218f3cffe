"""Jobs queued and run, beside plain pgqueuer doing the same on the same server: ``python -m bench.jobs WHAT URL JOBS``.

What a job does is left out: it is over at once. Each side is one process, which queues all jobs one by one, every one
of them durable, and then runs them, eight at a time. It prints the seconds and the CPU seconds of both.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

_AT_ONCE = 8
_PAYLOAD = b'{"tenant_id":42,"model":"m","user_message":"Summarise the sales of today: 3 loaves, 2 rolls."}'


async def tollhouse(url: str, jobs: int) -> dict[str, float]:
    """Queue and run jobs of ten tenants."""
    from pathlib import Path

    from tollhouse.jobs.calling import JobCall
    from tollhouse.jobs.model import JOBS_QUEUE, NewJob
    from tollhouse.jobs.queue import JobQueue, QueueRules
    from tollhouse.jobs.sealing import Seal
    from tollhouse.jobs.worker import Worker, WorkerRules
    from tollhouse.keys.charging import Accounts
    from tollhouse.kit.clock import SystemClock, utc_text
    from tollhouse.kit.ids import new_id
    from tollhouse.storage.database import Database

    clock, seal = SystemClock(), Seal(b"k" * 32)
    database: Database
    if url.startswith("sqlite:///"):
        from tollhouse.storage.sqlite import SqliteDatabase

        embedded = SqliteDatabase(Path(url.removeprefix("sqlite:///")))
        embedded.open()
        database, close = embedded, embedded.close
    else:
        from tollhouse.storage.postgres.control import migrate_database
        from tollhouse.storage.postgres.database import PostgresDatabase

        await asyncio.to_thread(migrate_database, url)
        server = PostgresDatabase(url, timeout_s=30)
        await server.open()
        database, close = server, server.close
    queue = JobQueue(database, clock, QueueRules())

    async def enqueue() -> None:
        for number in range(jobs):
            job_id = new_id("job", clock.now_ms())
            await queue.add(
                NewJob(
                    job_id=job_id,
                    queue=JOBS_QUEUE,
                    tenant_id=str(number % 10),
                    user_id="101",
                    feature_slug="bench",
                    model="m",
                    service="bench",
                    key_id="key",
                    created_at=utc_text(clock.now_ms()),
                    sealed_request=seal.seal(job_id, _PAYLOAD),
                )
            )

    done = 0

    class Caller:
        async def call(self, call: JobCall) -> bytes:
            nonlocal done
            assert call.request == _PAYLOAD
            assert call.idempotency_key
            done += 1
            if done == jobs:
                worker.stop()
            return b'{"content":"Good."}'

    worker = Worker("bench", queue, seal, Accounts(b"a" * 32), Caller(), WorkerRules(concurrency=_AT_ONCE))
    try:
        return await _measured(enqueue, worker.run)
    finally:
        await close()


async def pgqueuer(url: str, jobs: int) -> dict[str, float]:
    """Queue and run jobs of one entrypoint."""
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.models import Job
    from pgqueuer.qm import QueueManager
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    manager = QueueManager(queries)
    done = 0

    @manager.entrypoint("job", concurrency_limit=_AT_ONCE)
    async def run(job: Job) -> None:
        nonlocal done
        assert job.payload == _PAYLOAD
        done += 1
        if done == jobs:
            manager.shutdown.set()

    async def enqueue() -> None:
        for _ in range(jobs):
            await queries.enqueue("job", _PAYLOAD)

    async def work() -> None:
        await manager.run(batch_size=_AT_ONCE)

    try:
        return await _measured(enqueue, work)
    finally:
        await connection.close()


async def _measured(enqueue: Callable[[], Awaitable[None]], run: Callable[[], Awaitable[None]]) -> dict[str, float]:
    moments = [(time.perf_counter(), time.process_time())]
    for work in (enqueue, run):
        await work()
        moments.append((time.perf_counter(), time.process_time()))
    (start_s, start_cpu_s), (queued_s, queued_cpu_s), (end_s, end_cpu_s) = moments
    return {
        "enqueue_s": queued_s - start_s,
        "enqueue_cpu_s": queued_cpu_s - start_cpu_s,
        "run_s": end_s - queued_s,
        "run_cpu_s": end_cpu_s - queued_cpu_s,
    }


if __name__ == "__main__":
    import uvloop

    told = uvloop.run({"tollhouse": tollhouse, "pgqueuer": pgqueuer}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
    print(json.dumps(told))
