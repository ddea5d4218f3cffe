"""What ``serve`` does about a worker that cannot begin."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from tollhouse.config import Config
from tollhouse.config.jobs import Jobs
from tollhouse.errors import StartError, Unavailable
from tollhouse.wiring import service
from tollhouse.wiring.workers import JobParts

NO_JOBS = cast("JobParts", None)


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
            yield

        monkeypatch.setattr(service, "working", working)
        monkeypatch.setattr(service, "_WORK_AGAIN_S", 0.01)
        async with AsyncExitStack() as stack:
            start = service._start_worker(Config(), "th_key", NO_JOBS, stack)
            start("http://127.0.0.1:1")
            async with asyncio.timeout(30):
                await is_working.wait()

    asyncio.run(main())
    assert begun == ["http://127.0.0.1:1"] * 2


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
            service._start_worker(Config(jobs=jobs), "th_key", NO_JOBS, stack)

    with pytest.raises(StartError, match=told):
        asyncio.run(main())
