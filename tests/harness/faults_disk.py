"""Disks that become full, and disks that fail; and a caller who remembers what became of his calls."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import uvloop

from harness.load import Outcome, all_at_once
from harness.reckoning import numbered_call
from harness.service import Service, eventually
from tollhouse.testing import Behaviour, FakeProvider


class Disk:
    """A small disk, which can be filled up to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self) -> None:
        with self._filling.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    def free(self) -> None:
        self._filling.unlink()


@contextlib.contextmanager
def mounted(size_bytes: int) -> Iterator[Disk]:
    """Give a disk of its own, which is gone afterwards; skips the test where none can be made."""
    # Where a server that runs as another user can reach it.
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:
        Path(folder).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("a disk of its own can be mounted by root only")
        try:
            yield Disk(Path(folder))
        finally:
            subprocess.run(["umount", folder], check=True)


@cache
def failing_disk() -> dict[str, str]:
    """Return what has a process's disk fail, see ``faults_disk.c``; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    # Where a server that runs as another user can read it; it is a few kilobytes.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)
    library = folder / "disk.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "FAULT_FSYNC": str(folder / "fsync-fails")}


@contextlib.contextmanager
def fsync_fails() -> Iterator[None]:
    """Have every fsync of the processes with a failing disk fail meanwhile."""
    flag = Path(failing_disk()["FAULT_FSYNC"])
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()


class Caller:
    """Makes numbered calls, and remembers what became of them."""

    def __init__(self, service: Service) -> None:
        self.tenant, self._key = service.tenant(), service.new_key()["key"]
        self._service = service
        self.outcomes: list[Outcome] = []
        self._next = 0

    def call(self, count: int) -> list[Outcome]:
        """Make so many new calls at once."""
        start, self._next = self._next, self._next + count
        found = self._ask(range(start, start + count))
        self.outcomes += found
        return found

    def repeat(self, numbers: list[int]) -> list[Outcome]:
        """Make calls once more, under the idempotency keys they had."""
        return self._ask(numbers)

    def call_until_refused(self) -> None:
        """Call until nothing is served any more."""
        while {outcome.status for outcome in self.call(100)} != {503}:
            assert len(self.outcomes) < 20_000, "calls are served all the same"

    def in_the_midst(self, fake: FakeProvider, count: int) -> "InTheMidst":
        return InTheMidst(self, fake, count)

    def _ask(self, numbers: range | list[int]) -> list[Outcome]:
        calls = [numbered_call(number, self.tenant, self._key, is_idempotent=True) for number in numbers]
        found = uvloop.run(all_at_once(self._service.port, calls))
        for number, outcome in zip(numbers, found, strict=True):
            outcome.number = number
        return found


class InTheMidst:
    """``with caller.in_the_midst(fake, 100):`` does something while so many calls are with the provider."""

    def __init__(self, caller: Caller, fake: FakeProvider, count: int) -> None:
        self._caller, self._fake, self._count = caller, fake, count
        self._thread = threading.Thread(target=caller.call, args=(count,))

    def __enter__(self) -> None:
        self._fake.behave(Behaviour(delay_s=2.0))
        before = len(self._fake.receipts())
        self._thread.start()
        eventually(lambda: len(self._fake.receipts()) == before + self._count)

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._fake.behave(Behaviour())
