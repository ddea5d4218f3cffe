"""The circuit breaker of one model at one provider.

``closed``: calls go through, and are counted. ``open``: none goes through. ``half_open``: one does, the probe, and what
becomes of it decides. After a recovery the share of calls that go through grows from a tenth to all of them.

Who asks gets a permit, and says with it what became of the call: a call from before the last change of state, which
ends after it, says nothing about the provider's state now.
"""

import random
from collections.abc import Callable
from typing import Literal

import msgspec

from tollhouse.resilience.window import SlidingWindow

State = Literal["closed", "open", "half_open"]

NO_PERMIT = 0
_FIRST_SHARE = 0.1
# So that several instances, which see an outage begin together, do not all probe at the same moment.
_JITTER = (0.9, 1.1)


class BreakerSettings(msgspec.Struct, frozen=True):
    """When a breaker opens, and how it comes back.

    Attributes:
        window_s: how far back it looks.
        min_calls: with fewer calls in the window, rates mean nothing.
        failure_rate: the share of failed calls from which on it opens, above 0 and at most 1.
        consecutive_failures: as many failures in a row open it whatever the rate; a window full of earlier successes
            would hide the beginning of an outage.
        slow_call_s: a call that took longer is slow; None counts none as slow.
        slow_call_rate: the share of slow calls from which on it opens.
        open_s: how long it stays open before the first probe; twice as long after each probe that fails,
        max_open_s: up to this.
        slow_start_s: how long it takes after a recovery until all calls go through again.
    """

    window_s: float = 30.0
    min_calls: int = 20
    failure_rate: float = 0.5
    consecutive_failures: int = 10
    slow_call_s: float | None = None
    slow_call_rate: float = 0.8
    open_s: float = 5.0
    max_open_s: float = 60.0
    slow_start_s: float = 10.0


class Transition(msgspec.Struct, frozen=True):
    """A change of state.

    Attributes:
        calls, failures, slow: what the window held.
        probe_in_s: of one that opened, when it is probed.
    """

    before: State
    after: State
    calls: int
    failures: int
    slow: int
    probe_in_s: float | None = None


class CircuitBreaker:
    """Decides whether calls go to one model at one provider, and learns from what becomes of them.

    Args:
        when_changed: told of each change of state, on the path of a call: it must only take note.

    Attributes:
        state: its state as of the last call; an open one stays open until somebody calls after its time.
        refused: how many calls it has not let through.
    """

    __slots__ = (
        "_closed_at_s",
        "_credit",
        "_generation",
        "_in_a_row",
        "_is_probing",
        "_openings",
        "_probe_at_s",
        "_settings",
        "_slow_start_until_s",
        "_when_changed",
        "_window",
        "refused",
        "state",
    )

    def __init__(self, settings: BreakerSettings, when_changed: Callable[[Transition], None] = lambda _: None) -> None:
        self.state: State = "closed"
        self.refused = 0
        self._settings = settings
        self._when_changed = when_changed
        self._window = SlidingWindow(settings.window_s)
        # Counts the changes of state; it is the permit of all calls that begin between two of them.
        self._generation = 1
        self._in_a_row = 0
        self._is_probing = False
        self._openings = 0
        self._probe_at_s = 0.0
        self._closed_at_s = float("-inf")
        self._slow_start_until_s = float("-inf")
        self._credit = 0.0

    # Asked before a call.

    def acquire(self, now_s: float, *, has_alternative: bool = False) -> int:
        """Return the permit to make a call, to be given back once; ``NO_PERMIT`` refuses it.

        Args:
            has_alternative: somebody else may answer in its place: only then is a call refused for the sake of a
                provider that has just recovered.
        """
        if self.state == "closed":
            if now_s >= self._slow_start_until_s or not has_alternative or self._is_its_turn(now_s):
                return self._generation
        elif self.state == "open" and now_s >= self._probe_at_s:
            self._become("half_open")
            self._is_probing = True
            return self._generation
        elif self.state == "half_open" and not self._is_probing:
            self._is_probing = True
            return self._generation
        self.refused += 1
        return NO_PERMIT

    def would_permit(self, now_s: float) -> bool:
        """Whether a call would go through now; takes nothing."""
        if self.state == "open":
            return now_s >= self._probe_at_s
        return self.state == "closed" or not self._is_probing

    def probe_in_s(self, now_s: float) -> float:
        """Return the seconds until the next probe; 0 for a breaker that is not open."""
        return max(self._probe_at_s - now_s, 0.0) if self.state == "open" else 0.0

    def _is_its_turn(self, now_s: float) -> bool:
        left = (self._slow_start_until_s - now_s) / self._settings.slow_start_s
        self._credit += max(_FIRST_SHARE, 1 - left)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    # Told after a call.

    def succeeded(self, permit: int, now_s: float, duration_s: float) -> None:
        """The provider answered, after so long."""
        if permit != self._generation:
            return
        slow_call_s = self._settings.slow_call_s
        is_slow = slow_call_s is not None and duration_s > slow_call_s
        if self.state == "half_open":
            if is_slow:
                self._open(now_s, None)
            else:
                self._close(now_s)
            return
        self._in_a_row = 0
        self._window.add(now_s, is_failure=False, is_slow=is_slow)
        if is_slow:
            self._judge(now_s, None)

    def failed(self, permit: int, now_s: float, duration_s: float = 0.0, pause_s: float | None = None) -> None:
        """The provider did not answer, or not as it should; ``pause_s`` is how long it asked to be left alone."""
        if permit != self._generation:
            return
        if self.state == "half_open":
            self._open(now_s, pause_s)
            return
        self._in_a_row += 1
        slow_call_s = self._settings.slow_call_s
        self._window.add(now_s, is_failure=True, is_slow=slow_call_s is not None and duration_s > slow_call_s)
        self._judge(now_s, pause_s)

    def answered(self, permit: int, now_s: float) -> None:
        """The provider refused the request itself: a sign of life, which counts neither for nor against it."""
        if permit == self._generation and self.state == "half_open":
            self._close(now_s)

    def ignore(self, permit: int, now_s: float, duration_s: float = 0.0) -> None:
        """The call told nothing of the provider, unless that it was slow: it was never made, or broken off by us."""
        if permit != self._generation:
            return
        slow_call_s = self._settings.slow_call_s
        is_slow = slow_call_s is not None and duration_s > slow_call_s
        if self.state == "half_open":
            if is_slow:
                self._open(now_s, None)
            self._is_probing = False
        elif is_slow:
            self._window.add(now_s, is_failure=False, is_slow=True)
            self._judge(now_s, None)

    # Changes of state.

    def _judge(self, now_s: float, pause_s: float | None) -> None:
        settings, window = self._settings, self._window
        if self._in_a_row < settings.consecutive_failures:
            calls = window.calls
            if calls < settings.min_calls:
                return
            is_slow = settings.slow_call_s is not None and window.slow >= settings.slow_call_rate * calls
            if window.failures < settings.failure_rate * calls and not is_slow:
                return
        if now_s - self._closed_at_s > settings.window_s:
            self._openings = 0
        self._open(now_s, pause_s)

    def _open(self, now_s: float, pause_s: float | None) -> None:
        settings = self._settings
        open_s = settings.open_s * 2.0 ** min(self._openings, 30) * random.uniform(*_JITTER)  # noqa: S311 - no secret
        open_s = min(max(open_s, pause_s or 0.0), settings.max_open_s)
        self._openings += 1
        self._probe_at_s = now_s + open_s
        self._become("open", probe_in_s=open_s)

    def _close(self, now_s: float) -> None:
        self._closed_at_s = now_s
        self._slow_start_until_s = now_s + self._settings.slow_start_s
        self._become("closed")
        self._window.clear()

    def _become(self, state: State, probe_in_s: float | None = None) -> None:
        window = self._window
        change = Transition(self.state, state, window.calls, window.failures, window.slow, probe_in_s)
        self.state = state
        self._generation += 1
        self._in_a_row = 0
        self._credit = 0.0
        self._is_probing = False
        self._when_changed(change)

    # Shown.

    def snapshot(self, now_s: float) -> "BreakerSnapshot":
        """Return what operators see of it."""
        self._window.age(now_s)
        calls = self._window.calls
        starting = max(self._slow_start_until_s - now_s, 0.0) if self.state == "closed" else 0.0
        return BreakerSnapshot(
            state=self.state,
            calls=calls,
            failure_rate=round(self._window.failures / calls, 4) if calls else 0.0,
            slow_call_rate=round(self._window.slow / calls, 4) if calls else 0.0,
            probe_in_s=round(self.probe_in_s(now_s), 3) if self.state == "open" else None,
            slow_start_s=round(starting, 3) if starting else None,
        )


class BreakerSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A breaker as it is now.

    Attributes:
        calls: that ended within the window; with the rates of those that failed and of those that were slow.
        probe_in_s: seconds until an open one is probed by the next call.
        slow_start_s: seconds until all calls go through again, after a recovery.
    """

    state: State
    calls: int
    failure_rate: float
    slow_call_rate: float
    probe_in_s: float | None = None
    slow_start_s: float | None = None
