"""Looking at the queue: what is not known any more is not told, whatever came in between."""

import asyncio
from collections.abc import Callable

import pytest

from harness.jobs import Queue, run_on_queue
from tollhouse.errors import Unavailable
from tollhouse.jobs import watch as module
from tollhouse.jobs.watch import JobWatch


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("trouble", [Unavailable("it is away"), ValueError("a defect")])
def test_a_state_that_cannot_be_seen_any_more_is_not_told(tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.001)
    is_in_trouble = asyncio.Event()
    sound = module.look

    def look(connection, now_ms):
        if is_in_trouble.is_set():
            raise trouble
        return sound(connection, now_ms)

    monkeypatch.setattr(module, "look", look)

    async def work(queue: Queue) -> None:
        await queue.put()
        watch = JobWatch(queue.database, queue)
        looking = asyncio.create_task(watch.keep_looking())
        async with asyncio.timeout(20):
            await until(lambda: watch.state is not None)
            assert watch.state is not None
            assert watch.state.depths == {("ai-jobs", "queued"): 1}
            is_in_trouble.set()
            await until(lambda: watch.state is None)
        looking.cancel()
        await asyncio.wait({looking})

    run_on_queue(tmp_path, work)
