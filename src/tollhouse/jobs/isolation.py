"""``python -m tollhouse.jobs.isolation``: calls that are made one at a time, in a process of its own.

A worker that ends takes several jobs with it, and which of them it died of is not known. They are called for by such a
process next: if that ends without a word, it is known.
"""

import asyncio
import os
import signal
import sys

import msgspec

from tollhouse.jobs.calling import CallerSettings, JobCall, ServiceCaller, TryFailed, Verdict
from tollhouse.jobs.model import Failure

# Lines of JSON go to and fro; what is asked and answered is bounded by whoever takes it.
_MOST_BYTES = 128 * 1024 * 1024
# Starting takes longer than a call that is answered at once, and suspects come several at a time.
_IDLE_S = 20.0
_DYING_S = 1.0
# Each is a whole interpreter. After a worker that ran a thousand jobs has died, all of them are suspects.
_MOST_PROCESSES = 8


class _Asked(msgspec.Struct, frozen=True):
    settings: CallerSettings
    call: JobCall


class _Told(msgspec.Struct, frozen=True):
    answer: bytes | None = None
    verdict: Verdict = "again"
    failure: Failure | None = None
    retry_after_s: float | None = None
    is_unknown: bool = False


_encode = msgspec.json.Encoder().encode
_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_told = msgspec.json.Decoder(_Told).decode


class IsolatedCaller:
    """Makes each call in a process that makes no other meanwhile, and that ends with this one if this one is killed."""

    def __init__(self, settings: CallerSettings) -> None:
        self._settings = settings
        self._idle: dict[asyncio.subprocess.Process, asyncio.TimerHandle] = {}
        self._room = asyncio.Semaphore(_MOST_PROCESSES)

    async def call(self, call: JobCall) -> bytes:
        """Make a job's call; raises TryFailed, with the verdict ``crashed`` where the process ended without a word."""
        async with self._room:
            return await self._call(call)

    async def _call(self, call: JobCall) -> bytes:
        process = self._take() or await _start()
        assert process.stdin is not None
        assert process.stdout is not None
        told = b""
        try:
            process.stdin.write(_encode(_Asked(self._settings, call)) + b"\n")
            told = await process.stdout.readline()
        finally:
            if not told:
                await _end(process)
        if not told:
            failure = Failure("ai_job_crashed", f"the process that ran it ended with {process.returncode}")
            raise TryFailed("crashed", failure)
        self._keep(process)
        return _answer(_decode_told(told))

    async def close(self) -> None:
        """End the processes that wait for calls."""
        while (process := self._take()) is not None:
            await _end(process)

    def _take(self) -> asyncio.subprocess.Process | None:
        while self._idle:
            process, timer = self._idle.popitem()
            timer.cancel()
            if process.returncode is None:
                return process
        return None

    def _keep(self, process: asyncio.subprocess.Process) -> None:
        self._idle[process] = asyncio.get_running_loop().call_later(_IDLE_S, self._retire, process)

    def _retire(self, process: asyncio.subprocess.Process) -> None:
        self._idle.pop(process).cancel()
        assert process.stdin is not None
        # Which it takes as the end.
        process.stdin.close()


async def _start() -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tollhouse.jobs.isolation",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MOST_BYTES,
        )
    except OSError as error:
        failure = Failure("ai_unavailable", f"no process can be started for it: {error.strerror}")
        raise TryFailed("wait", failure) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process that gave no answer: one that died has closed its output, any other is given up."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_DYING_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _answer(told: _Told) -> bytes:
    if told.answer is not None:
        return told.answer
    assert told.failure is not None, "it says why there is no answer"
    raise TryFailed(told.verdict, told.failure, told.retry_after_s, is_unknown=told.is_unknown)


async def _serve() -> None:
    """Read calls from standard input, make them, and write what came of them to standard output."""
    # A terminal, and systemd, tell all processes to stop: whose death would look as if it were its job's doing. This
    # one ends when the worker hangs up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    reader = asyncio.StreamReader(limit=_MOST_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asked = await reader.readline()
    while asked:
        calling = asyncio.create_task(_call(_decode_asked(asked)))
        following = asyncio.create_task(reader.readline())
        await asyncio.wait({calling, following}, return_when=asyncio.FIRST_COMPLETED)
        if not calling.done():
            # Nothing is asked before the answer: the process that did has ended, or gives the call up.
            os._exit(1)
        sys.stdout.buffer.write(_encode(calling.result()) + b"\n")
        sys.stdout.buffer.flush()
        asked = await following


async def _call(asked: _Asked) -> _Told:
    caller = ServiceCaller(asked.settings, max_calls=1)
    try:
        return _Told(await caller.call(asked.call))
    except TryFailed as failed:
        return _Told(None, failed.verdict, failed.failure, failed.retry_after_s, failed.is_unknown)
    finally:
        await caller.close()


if __name__ == "__main__":
    asyncio.run(_serve())
