"""What ``serve`` does about a worker that cannot begin."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from tollhouse.apps.duties import Duties
from tollhouse.config import Config
from tollhouse.config.jobs import Jobs
from tollhouse.errors import StartError, Unavailable
from tollhouse.kit.clock import SystemClock
from tollhouse.wiring import service
from tollhouse.wiring.workers import JobParts


def no_jobs() -> JobParts:
    return cast("JobParts", None)


def test_a_worker_that_cannot_begin_yet_begins_later(monkeypatch):
    begun = []

    async def main():
        is_working = asyncio.Event()

        @asynccontextmanager
        async def working(_config, _parts, url, _key):
            begun.append(url)
            if len(begun) == 1:
                raise Unavailable("the disk is full")
            is_working.set()
            yield asyncio.ensure_future(asyncio.Event().wait())

        monkeypatch.setattr(service, "working", working)
        monkeypatch.setattr(service, "_WORK_AGAIN_S", 0.01)
        async with AsyncExitStack() as stack:
            start = service._start_worker(Config(), "th_key", no_jobs, Duties(SystemClock()), stack)
            start("http://127.0.0.1:1")
            async with asyncio.timeout(30):
                await is_working.wait()

    asyncio.run(main())
    assert begun == ["http://127.0.0.1:1"] * 2


def test_a_worker_that_a_defect_ends_is_begun_again(monkeypatch):
    monkeypatch.setattr("tollhouse.apps.duties._FIRST_PAUSE_S", 0.01)
    begun = []

    async def main():
        is_working = asyncio.Event()
        duties = Duties(SystemClock())

        async def run():
            begun.append("worker")
            if len(begun) == 1:
                raise ValueError("a defect")
            is_working.set()
            await asyncio.Event().wait()

        @asynccontextmanager
        async def working(*_):
            task = asyncio.create_task(run())
            yield task
            task.cancel()

        monkeypatch.setattr(service, "working", working)
        async with AsyncExitStack() as stack:
            service._start_worker(Config(), "th_key", no_jobs, duties, stack)("http://127.0.0.1:1")
            async with asyncio.timeout(30):
                await is_working.wait()
            assert (duties.defects["worker"], duties.unsound) == (1, ["worker"])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        (Jobs(url="https://ai.internal", ca_file="/nowhere/ca.pem"), r"\[jobs\] url, api_key, ca_file: .*No such file"),
        (Jobs(url="http://ai.internal/?a=1"), "expected no user, query or fragment"),
    ],
)
def test_a_worker_that_could_make_no_call_stops_the_start(jobs, told):
    async def main():
        async with AsyncExitStack() as stack:
            service._start_worker(Config(jobs=jobs), "th_key", no_jobs, Duties(SystemClock()), stack)

    with pytest.raises(StartError, match=told):
        asyncio.run(main())
