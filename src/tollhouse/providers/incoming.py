"""The bytes of a streamed answer, on their way from its connection to whoever reads them."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from tollhouse.providers.base import ProviderError

# What has arrived and is not read yet: beyond this much, the provider is made to wait.
_MOST_WAITING_BYTES = 256 * 1024


class Incoming:
    """A streamed answer of status 200, as it arrives.

    Whoever opened it has to close it, however it ends.

    Args:
        hold: asked to stop the connection from reading, or (False) to let it read again.

    Attributes:
        headers: the answer's, names in lower case; empty until its head has arrived.
        is_held: the connection has been stopped from reading.
    """

    __slots__ = (
        "_chunks",
        "_failure",
        "_has_ended",
        "_hold",
        "_release",
        "_waiter",
        "_waiting_bytes",
        "headers",
        "is_held",
    )

    def __init__(self, hold: Callable[[bool], None]) -> None:
        self.headers: Mapping[str, str] = {}
        self._hold = hold
        self.is_held = False
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_ended = False
        self._failure: ProviderError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._release: Callable[[], None] | None = None

    # The reader's side.

    async def read(self) -> bytes:
        """Return what has arrived since, as soon as there is anything; b"" at the answer's sound end.

        Raises:
            OutcomeUnknown: the answer was cut off or is malformed, once all that came before was read.
            TimedOut: … because nothing more came in time, or its deadline passed.
        """
        if not self._chunks and not self._has_ended and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._chunks:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._waiting_bytes = 0
            if self.is_held:
                self.is_held = False
                self._hold(False)
            return data
        if self._failure is not None:
            raise self._failure
        return b""

    def close(self) -> None:
        """Give the connection back, which is closed unless the answer was received to its end; may be called again."""
        release, self._release = self._release, None
        if release is not None:
            release()

    # The connection's side.

    def opened(self, release: Callable[[], None]) -> None:
        """Note what gives the connection back."""
        self._release = release

    def add(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._chunks.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes > _MOST_WAITING_BYTES and not self.is_held:
            self.is_held = True
            self._hold(True)
        self._wake()

    def end(self, failure: ProviderError | None = None) -> None:
        """Note that nothing follows: the answer is whole, or has failed."""
        if not self._has_ended and self._failure is None:
            self._has_ended, self._failure = failure is None, failure
            # The connection may serve another exchange from now on.
            self.is_held = False
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
