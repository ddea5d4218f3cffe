"""A service with a fault in it, see ``harness.faulty``."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from harness import faulty
from harness.service import Service


@contextlib.contextmanager
def started(services: Sequence[Service]) -> Iterator[None]:
    """Start services at the same time, and stop them afterwards, even if one of them does not start."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(services)) as threads:
        starts = [threads.submit(service.start) for service in services]
        for service, start in zip(services, starts, strict=True):
            if start.exception() is None:
                stack.push(service.__exit__)
        for start in starts:
            start.result()
        yield


class FaultyService(Service):
    """A service whose process can be told to kill itself, and whose clocks can be shifted while it runs."""

    def __init__(self, directory: Path, config: str, **how: Any) -> None:
        super().__init__(directory, config, **how)
        self.program = [Path(faulty.__file__)]
        self._shifts = directory / "shifts"
        self.shift_clocks()
        self.environ["FAULT_ENGINE"] = self.database_url.partition(":")[0]
        self.environ["FAULT_CLOCK"] = str(self._shifts)

    def shift_clocks(self, *, wall_s: float = 0, monotonic_s: float = 0) -> None:
        """Have the process's clocks be so much ahead of the machine's from now on."""
        # Replaced as a whole, since it is read all the time.
        new = self._shifts.with_suffix(".new")
        new.write_text(f"{wall_s * 1000} {monotonic_s}")
        new.replace(self._shifts)

    def start_doomed(self, point: str, at: int) -> Self:
        """Start the process so that it kills itself when a call passes a point for the nth time; see ``POINTS``."""
        self.environ |= {"FAULT_POINT": point, "FAULT_AT": str(at)}
        return self.start()

    @contextlib.contextmanager
    def sound(self) -> Iterator[Self]:
        """Run the process without a point at which it dies."""
        self.environ.pop("FAULT_POINT", None)
        with self as service:
            yield service

    def wait_for_death(self) -> None:
        assert self._reap() == -9, self.log()[-2000:]
