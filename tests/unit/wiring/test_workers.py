"""The worker of a process that serves, beside all else that it does."""

import asyncio
import threading

import pytest

from harness import engines
from harness.clock import FakeClock
from harness.jobs import new_job
from tollhouse.config import Config, Secrets
from tollhouse.config.model import Database
from tollhouse.wiring.engines import open_engine
from tollhouse.wiring.workers import for_own_worker, make_jobs

MORE_THAN_IT_HAS = 12
SECRETS = Secrets(admin_key=None, pepper=b"p" * 32, provider_api_keys={})


@pytest.mark.engine("postgresql")
def test_a_busy_control_plane_keeps_no_worker_from_its_leases_and_jobs(on_each_engine, tmp_path):
    config = Config(database=Database(url=engines.database_url(tmp_path / "db")))
    is_over = threading.Event()

    async def main():
        clock = FakeClock()
        async with open_engine(config, SECRETS, clock) as engine:
            served = make_jobs(config, engine, clock)
            own = for_own_worker(served, engine, clock)
            job = await served.queue.add(new_job(clock))
            assert own.queue.arrived.is_set(), "it waits for what is taken here"
            busy = [
                asyncio.create_task(database.read(lambda _: is_over.wait(60)))
                for database in (engine.database, engine.reserved)
                for _ in range(MORE_THAN_IT_HAS)
            ]
            try:
                await asyncio.sleep(0)
                async with asyncio.timeout(30):
                    (held,) = await own.queue.claim("w", 1)
                    assert held.job.job_id == job.job_id
                    assert await own.queue.beat("w") == {job.job_id: 1}
                    assert await own.queue.complete(held.job, b"")
                    assert await own.schedules.fire_due() == 0
                assert not any(task.done() for task in busy)
            finally:
                is_over.set()
                await asyncio.gather(*busy)

    asyncio.run(main())
