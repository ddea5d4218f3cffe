"""Which failures are tried again, and when: only what cannot cost twice, and only within the call's deadline."""

from collections.abc import Callable
from typing import Literal

from tollhouse.client.errors import (
    CallTimeout,
    CircuitOpen,
    ConnectionLost,
    GatewayError,
    IdempotencyInFlight,
    NotConnected,
    PoolExhausted,
    RateLimited,
    RequestTimeout,
    StreamInterrupted,
    TollhouseError,
    TrustRefused,
    Unavailable,
)
from tollhouse.client.request import Request
from tollhouse.client.settings import RetryPolicy, Settings

Again = Literal["never", "once", "yes", "answer under way"]

_GATEWAY_PASSES = frozenset({429, 502, 503})
_GATEWAY_TIMEOUT = 504


def again(error: TollhouseError) -> Again:
    """Return whether a call that failed so may be tried again under the same idempotency key.

    402 never is, nor any other refusal, nor 500. A stream is not, once something of it has come.
    """
    match error:
        case IdempotencyInFlight():
            return "answer under way"
        case PoolExhausted() | TrustRefused() | StreamInterrupted():
            return "never"
        case RateLimited() | Unavailable() | RequestTimeout() | NotConnected() | ConnectionLost():
            return "yes"
        case CallTimeout():
            return "once"
        case GatewayError(status=status) if status in _GATEWAY_PASSES:
            return "yes"
        case GatewayError(status=status) if status == _GATEWAY_TIMEOUT:
            return "once"
        case _:
            return "never"


class Attempts:
    """The tries of one call.

    Attributes:
        tries: how many failed, those not counted that waited for an answer under way.
        last: what became of the latest.
    """

    def __init__(self, request: Request, settings: Settings) -> None:
        self.tries = 0
        self._policy: RetryPolicy = settings.retry
        self._clock = settings.clock
        self._uniform: Callable[[float, float], float] = settings.uniform
        self._began_s = self._clock()
        self._timeout_s = request.timeout_s
        self._patience_s = request.patience_s
        self._failures = 0
        self._timeouts = 0
        self._tried_at_s = self._began_s
        self.last: TollhouseError | None = None

    @property
    def has_full_time(self) -> bool:
        """Whether the try that begins now has all the time that the call's timeout gives."""
        return self.last is None

    @property
    def reason(self) -> str:
        """What became of the latest, without anything of the call itself."""
        error = self.last
        return type(error).__name__ if error is None or error.code is None else f"{error.status} {error.code}"

    def begin(self) -> None:
        """Note that a try begins."""
        self._tried_at_s = self._clock()

    def left_s(self) -> float:
        """Return for how long an answer is waited for: a little beyond the deadline, since it may be on its way."""
        return self._began_s + self._patience_s - self._clock()

    def pause_after_s(self, error: TollhouseError) -> float | None:
        """Return how long to pause before the next try; None where there is none, and ``last`` ends the call."""
        if isinstance(error, CircuitOpen) and self.last is not None:
            # It opened after a try of this very call: what became of that one is to be told.
            return None
        self.last = error
        verdict = again(error)
        self._failures += 1
        if verdict != "answer under way":
            self.tries += 1
        left_s = self._began_s + self._timeout_s - self._clock()
        pause_s = self._pause_s(error)
        if verdict == "never" or self.tries >= self._policy.max_tries or pause_s >= left_s:
            return None
        if verdict == "once":
            self._timeouts += 1
            # One that needed so long would need as long again.
            if self._timeouts > 1 or left_s - pause_s < self._clock() - self._tried_at_s:
                return None
        return pause_s

    def _pause_s(self, error: TollhouseError) -> float:
        policy = self._policy
        # Bounded, since a power of two leaves the range of floats behind soon.
        grown_s = min(policy.longest_pause_s, policy.first_pause_s * 2.0 ** min(self._failures - 1, 30))
        jittered_s = self._uniform(grown_s / 2, grown_s)
        # Those who were told the same time come one after the other.
        return jittered_s if error.retry_after_s is None else error.retry_after_s + self._uniform(0, grown_s / 2)
