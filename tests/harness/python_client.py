"""Both clients of the library behind one face, so that a test runs with either."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from tollhouse.client import AsyncClient, Client, Completion, GroupedUsage, StreamEvent, Usage

T = TypeVar("T")
Kind = Literal["blocking", "asyncio"]
KINDS: tuple[Kind, ...] = ("blocking", "asyncio")


class Blocking:
    """The blocking client. It notes its pauses between two tries, and does not make them unless told to."""

    def __init__(self, url: str, key: str, *, pauses: bool = False, **options: Any) -> None:
        self.pauses_s: list[float] = []
        how: dict[str, Any] = {} if pauses else {"sleep": self.pauses_s.append}
        self.client = Client(url, key, **how, **options)

    def complete(self, **call: Any) -> Completion:
        return self.client.complete(**call)

    def events(self, seen: list[StreamEvent] | None = None, leave_after: int = 10**9, **call: Any) -> list[StreamEvent]:
        """Read a stream, or so many of its events; they are also seen by whoever gives a list."""
        seen = [] if seen is None else seen
        with self.client.stream(**call) as stream:
            for event in stream:
                seen.append(event)
                if len(seen) >= leave_after:
                    break
        return seen

    def usage(self, *args: Any, **kwargs: Any) -> Usage | GroupedUsage:
        found: Usage | GroupedUsage = self.client.usage(*args, **kwargs)
        return found

    def close(self) -> None:
        self.client.close()


class Asyncio:
    """The asyncio client, on a loop of its own."""

    def __init__(self, url: str, key: str, *, pauses: bool = False, **options: Any) -> None:
        self.pauses_s: list[float] = []
        self._runner = asyncio.Runner()

        async def note(pause_s: float) -> None:
            self.pauses_s.append(pause_s)

        how: dict[str, Any] = {} if pauses else {"sleep": note}
        self.client = AsyncClient(url, key, **how, **options)

    def run(self, wanted: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await wanted()

        return self._runner.run(run())

    def complete(self, **call: Any) -> Completion:
        return self.run(lambda: self.client.complete(**call))

    def events(self, seen: list[StreamEvent] | None = None, leave_after: int = 10**9, **call: Any) -> list[StreamEvent]:
        """Read a stream, or so many of its events; they are also seen by whoever gives a list."""
        seen = [] if seen is None else seen

        async def read() -> None:
            async with self.client.stream(**call) as stream:
                async for event in stream:
                    seen.append(event)
                    if len(seen) >= leave_after:
                        break

        self.run(read)
        return seen

    def usage(self, *args: Any, **kwargs: Any) -> Usage | GroupedUsage:
        found: Usage | GroupedUsage = self.run(lambda: self.client.usage(*args, **kwargs))
        return found

    def close(self) -> None:
        self.run(self.client.close)
        self._runner.close()


Either = Blocking | Asyncio


def client_of(kind: Kind, url: str, key: str = "tk_of_the_tests", **options: Any) -> Either:
    """Return a client of a kind."""
    return Blocking(url, key, **options) if kind == "blocking" else Asyncio(url, key, **options)
