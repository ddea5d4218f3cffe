"""Calls in processes of their own: what they bring back, and what is known when they die."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from harness import poison
from harness.service import free_port
from tollhouse.jobs import isolation
from tollhouse.jobs.calling import CallerSettings, JobCall, TryFailed
from tollhouse.jobs.isolation import IsolatedCaller

pytestmark = pytest.mark.engine("sqlite")

REQUEST = b'{"model":"m","user_message":"hello"}'
CALL = JobCall(REQUEST, "job_1", "account")


def failure_of(call: JobCall) -> TryFailed:
    async def work() -> None:
        caller = IsolatedCaller(CallerSettings(f"http://127.0.0.1:{free_port()}", "th_key"))
        try:
            await caller.call(call)
        finally:
            await caller.close()

    with pytest.raises(TryFailed) as raised:
        asyncio.run(work())
    return raised.value


def test_what_came_of_a_call_is_told_as_it_was_there():
    failed = failure_of(CALL)
    assert (failed.verdict, failed.failure.code) == ("away", "ai_unavailable")


def test_a_process_that_ends_without_a_word_has_crashed(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(poison.__path__[0])))
    failed = failure_of(msgspec.structs.replace(CALL, request=REQUEST.replace(b"hello", b"poison")))
    assert (failed.verdict, failed.failure.message) == ("crashed", "the process that ran it ended with -9")


def test_a_process_makes_one_call_after_another():
    async def work() -> None:
        caller = IsolatedCaller(CallerSettings(f"http://127.0.0.1:{free_port()}", "th_key"))
        used = set()
        for _ in range(3):
            with pytest.raises(TryFailed):
                await caller.call(CALL)
            used |= set(_children())
        assert len(used) == 1
        await caller.close()
        assert _children() == []

    asyncio.run(work())


def test_a_call_that_is_given_up_leaves_no_process_behind():
    async def work(port: int) -> list[int]:
        caller = IsolatedCaller(CallerSettings(f"http://127.0.0.1:{port}", "k"))
        calling = asyncio.create_task(caller.call(CALL))
        async with asyncio.timeout(30):
            while not (found := _children()):
                await asyncio.sleep(0.01)
        calling.cancel()
        await asyncio.wait({calling})
        return found

    # Nobody answers there.
    with socket.create_server(("127.0.0.1", 0)) as server:
        (child,) = asyncio.run(work(server.getsockname()[1]))
    assert not Path(f"/proc/{child}").exists()


def test_a_signal_that_tells_all_processes_to_stop_is_not_taken_for_the_jobs_doing():
    """Ctrl-C in a terminal and systemd's stop reach every process of a worker."""

    async def work(server: socket.socket) -> None:
        caller = IsolatedCaller(CallerSettings(f"http://127.0.0.1:{server.getsockname()[1]}", "k"))
        calling = asyncio.create_task(caller.call(CALL))
        asked, _ = await asyncio.to_thread(server.accept)
        (child,) = _children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        # It lives, and hears that its call is lost.
        asked.close()
        with pytest.raises(TryFailed) as raised:
            await calling
        assert raised.value.verdict != "crashed"
        await caller.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        asyncio.run(work(server))


def test_suspects_have_a_bounded_number_of_processes(monkeypatch):
    monkeypatch.setattr(isolation, "_MOST_PROCESSES", 2)

    async def work() -> None:
        caller = IsolatedCaller(CallerSettings(f"http://127.0.0.1:{free_port()}", "k"))
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(_children()))
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        came = await asyncio.gather(*(caller.call(CALL) for _ in range(5)), return_exceptions=True)
        watching.cancel()
        assert all(isinstance(each, TryFailed) for each in came)
        assert most == 2
        await caller.close()

    asyncio.run(work())


def _children() -> list[int]:
    pids = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return [pid for pid in pids if b"tollhouse.jobs.isolation" in Path(f"/proc/{pid}/cmdline").read_bytes()]
