"""A circuit breaker: while the service cannot be reached, calls fail at once, and one at a time probes it."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from tollhouse.client.errors import (
    ApiError,
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    GatewayError,
    NotConnected,
    PoolExhausted,
    TrustRefused,
)
from tollhouse.client.settings import BreakerPolicy

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Counts the failures of one client's tries. Any thread may use it.

    Args:
        policy: None never opens.
        clock: seconds of a monotonic clock.
        uniform: makes clients of one outage return one after the other: an open circuit lasts up to a fifth longer.
    """

    def __init__(
        self, policy: BreakerPolicy | None, clock: Callable[[], float], uniform: Callable[[float, float], float]
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self.renew()

    def renew(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until_s: float | None = None
        self._is_probing = False

    @property
    def state(self) -> State:
        with self._lock:
            if self._open_until_s is None:
                return "closed"
            return "open" if self._clock() < self._open_until_s else "half-open"

    def permit(self, *, counts_timeouts: bool) -> "Permit":
        """Return leave for one try.

        Args:
            counts_timeouts: the try is given all the time that the service may take.

        Raises:
            CircuitOpen: the circuit is open, or the one call that probes the service is under way.
        """
        with self._lock:
            if self._open_until_s is None:
                return Permit(self, is_probe=False, counts_timeouts=counts_timeouts)
            wait_s = self._open_until_s - self._clock()
            if wait_s > 0 or self._is_probing:
                raise CircuitOpen(
                    f"the service failed {self._failures} times in a row; it is tried again in {max(wait_s, 0):.1f} s",
                    retry_after_s=max(wait_s, 0.0),
                )
            self._is_probing = True
            return Permit(self, is_probe=True, counts_timeouts=counts_timeouts)

    def settle(self, *, failed: bool | None, is_probe: bool) -> None:
        """Take a try's result; None tells nothing, and gives its leave back."""
        policy = self._policy
        if policy is None:
            return
        with self._lock:
            if is_probe:
                self._is_probing = False
            if failed is None or (self._open_until_s is not None and not is_probe):
                # Tries from before it opened have no say in when it closes.
                return
            if not failed:
                self._failures = 0
                self._open_until_s = None
                return
            self._failures += 1
            if is_probe or self._failures >= policy.failures:
                self._open_until_s = self._clock() + policy.open_s * self._uniform(1.0, 1.2)


class Permit:
    """Leave for one try, settled when it is left; one that is cancelled gives it back."""

    def __init__(self, breaker: CircuitBreaker, *, is_probe: bool, counts_timeouts: bool) -> None:
        self._breaker = breaker
        self._is_probe = is_probe
        self._counts_timeouts = counts_timeouts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._breaker.settle(failed=self._has_failed(error), is_probe=self._is_probe)

    def _has_failed(self, error: BaseException | None) -> bool | None:
        """Whether a try shows that the service cannot be reached; None where it shows nothing of that."""
        match error:
            case None | ApiError():
                return False
            case PoolExhausted() | TrustRefused() | GatewayError(status=429):
                return None
            case DeadlineExceeded():
                return True if self._counts_timeouts else None
            case NotConnected() | ConnectionLost() | GatewayError():
                return True
            case _:
                return None
