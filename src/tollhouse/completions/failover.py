"""Whose turn it is: the primary's, the primary's once more, then its fallbacks', as far as each takes calls.

A candidate whose breaker is open is passed over without a reservation and without a request, and so is one at whose
provider all places are taken.
"""

import asyncio
import random

import msgspec

from tollhouse.completions.call import Call
from tollhouse.completions.dispatch import Failed
from tollhouse.completions.models import Candidate, PricedCandidate
from tollhouse.errors import CallTimeout, TollhouseError, Unavailable
from tollhouse.kit.clock import Clock
from tollhouse.providers.base import Adapter
from tollhouse.resilience.api_keys import ApiKey
from tollhouse.resilience.breaker import NO_PERMIT, CircuitBreaker
from tollhouse.telemetry.metrics import Metrics

# Before the primary is tried again: at random, so that the calls hit by one outage do not return together.
_PAUSE_S = (0.05, 0.25)
_RETRY_AFTER_S = 1.0
# Statuses by which a provider turns a key away, rather than all calls.
_OF_THE_KEY = frozenset({401, 402, 403, 429})


class Turn:
    """One attempt that a candidate may be given; what was taken for it is given back once, when it ends.

    Attributes:
        tried: the candidate at its price.
        candidate: the same, with the adapter of the key whose turn it is.
        is_retry: the candidate had a turn in this call before.
        runs_on: the attempt goes on after the call has been answered, and gives back by itself what it has taken.
    """

    __slots__ = (
        "_breaker",
        "_call",
        "_clock",
        "_is_over",
        "_key",
        "_permit",
        "candidate",
        "is_retry",
        "runs_on",
        "tried",
    )

    def __init__(self, call: Call, tried: PricedCandidate, permit: int, clock: Clock, *, is_retry: bool) -> None:
        candidate = tried.candidate
        self.tried = tried
        self.is_retry = is_retry
        self.runs_on = False
        self._call = call
        self._clock = clock
        self._permit = permit
        self._breaker = candidate.breaker
        self._is_over = False
        self._key: ApiKey[Adapter] | None = None
        if candidate.keys is not None:
            self._key = candidate.keys.choose(clock.monotonic_s())
            candidate = msgspec.structs.replace(candidate, adapter=self._key.account)
        self.candidate: Candidate = candidate

    def succeed(self, duration_s: float, now_s: float) -> None:
        """The provider has answered, or begun to, after so long; ``now_s`` by the monotonic clock."""
        self._leave()
        latency = self.candidate.latency
        if latency is not None:
            latency.add(duration_s)
        if self._breaker is not None:
            self._breaker.succeeded(self._permit, now_s, duration_s)

    def fail(self, failed: Failed, duration_s: float) -> Failed:
        """The attempt brought no answer, for so long; return what that means for the call."""
        self._leave()
        now_s = self._clock.monotonic_s()
        verdict = failed.verdict
        keys = self.candidate.keys
        if (
            self._key is not None
            and keys is not None
            and failed.status in _OF_THE_KEY
            and keys.turned_away(self._key, now_s, failed.pause_s)
        ):
            # Another key may fare better, and at once: the pause was asked of this one.
            failed = msgspec.structs.replace(failed, pause_s=0.0)
            verdict = "answered"
        breaker = self._breaker
        if breaker is None:
            return failed
        if verdict == "failed":
            breaker.failed(self._permit, now_s, duration_s, failed.pause_s)
        elif verdict == "answered":
            breaker.answered(self._permit, now_s)
        else:
            breaker.ignore(self._permit, now_s, duration_s)
        return failed

    def give_up(self) -> None:
        """The attempt was not made, or was cancelled; nothing to be done where it has ended already."""
        if not self._is_over:
            self._leave()
            if self._breaker is not None:
                self._breaker.ignore(self._permit, self._clock.monotonic_s())

    def _leave(self) -> None:
        self._is_over = True
        bulkhead = self.candidate.bulkhead
        if bulkhead is not None:
            bulkhead.leave(self._call.tenant_id)


class Course:
    """One call's way along its candidates.

    Args:
        max_retry_after_s: a provider that asks for a longer pause is not tried again while a fallback may answer.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_has_had_turn",
        "_max_retry_after_s",
        "_metrics",
        "_passed",
        "_place",
        "_spared",
    )

    def __init__(self, call: Call, clock: Clock, metrics: Metrics, max_retry_after_s: float) -> None:
        self._call = call
        self._clock = clock
        self._metrics = metrics
        self._max_retry_after_s = max_retry_after_s
        self._place = 0
        self._has_had_turn = False
        # Who was passed over, and the seconds after which it may take calls again.
        self._passed: list[tuple[PricedCandidate, float]] = []
        # Who has just recovered, and is only called if nobody else answers.
        self._spared: list[PricedCandidate] = []

    async def next(self, failed: Failed | None) -> Turn | None:
        """Return whose turn it is after an attempt that failed, if there was one; None when it is nobody's.

        Waits before a candidate is tried again, and for a free place at its provider, within the call's deadline.
        """
        call = self._call
        candidates = call.candidates
        if failed is not None and not failed.may_go_on:
            return None
        while self._place <= len(candidates):
            place = self._place
            self._place = place + 1
            # The second place is the primary's second turn.
            tried = candidates[max(place - 1, 0)]
            if place == 1:
                if not self._has_had_turn or failed is None or not await self._pause(failed):
                    continue
            elif place and asyncio.get_running_loop().time() >= call.deadline_s:
                return None
            turn = await self._turn(tried, is_retry=place == 1)
            if turn is not None:
                return turn
        while self._spared and asyncio.get_running_loop().time() < call.deadline_s:
            turn = await self._turn(self._spared.pop(0), is_last_resort=True)
            if turn is not None:
                return turn
        return None

    async def again(self, turn: Turn) -> Turn | None:
        """Give the candidate of a turn another one beside it, if it takes calls as usual."""
        breaker = turn.candidate.breaker
        if breaker is not None and breaker.state != "closed":
            return None
        return await self._turn(turn.tried, is_retry=True)

    def nobody_but(self, only: PricedCandidate) -> TollhouseError:
        """Return what the caller is told when the only one who could answer is left alone."""
        assert only.candidate.breaker is not None
        self._pass_over(only, only.candidate.breaker)
        return self.nobody()

    def nobody(self) -> TollhouseError:
        """Return what the caller is told when no candidate had a turn."""
        if asyncio.get_running_loop().time() >= self._call.deadline_s:
            return CallTimeout("the call's deadline passed before any provider could be asked")
        soonest, in_s = min(self._passed, key=lambda passed: passed[1])
        name = f"{soonest.candidate.model} at {soonest.candidate.provider}"
        return Unavailable(
            f"no provider takes calls for this model just now; {name} is the next to, in {max(in_s, 0):.0f} s or so",
            retry_after_s=max(in_s, _RETRY_AFTER_S),
        )

    async def _turn(
        self, tried: PricedCandidate, *, is_retry: bool = False, is_last_resort: bool = False
    ) -> Turn | None:
        """Give a candidate its turn, if it takes calls."""
        candidate, call = tried.candidate, self._call
        breaker, bulkhead = candidate.breaker, candidate.bulkhead
        now_s = self._clock.monotonic_s()
        if breaker is not None and breaker.state != "closed" and not breaker.would_permit(now_s):
            self._pass_over(tried, breaker)
            return None
        if bulkhead is not None and not bulkhead.try_enter(call.tenant_id):
            if not await bulkhead.enter(call.tenant_id, call.deadline_s):
                self._passed.append((tried, _RETRY_AFTER_S))
                self._metrics.passed_over(candidate.provider, candidate.model, "bulkhead_full")
                return None
            # The wait may have changed what the breaker says.
            now_s = self._clock.monotonic_s()
        permit = NO_PERMIT
        if breaker is not None:
            has_alternative = not is_last_resort and len(call.candidates) > 1
            permit = breaker.acquire(now_s, has_alternative=has_alternative)
            if permit == NO_PERMIT:
                if bulkhead is not None:
                    bulkhead.leave(call.tenant_id)
                if breaker.state == "closed":
                    self._spared.append(tried)
                self._pass_over(tried, breaker)
                return None
        self._has_had_turn = True
        return Turn(call, tried, permit, self._clock, is_retry=is_retry)

    def _pass_over(self, tried: PricedCandidate, breaker: CircuitBreaker) -> None:
        candidate = tried.candidate
        self._passed.append((tried, breaker.probe_in_s(self._clock.monotonic_s())))
        reason = "slow_start" if breaker.state == "closed" else f"breaker_{breaker.state}"
        self._metrics.passed_over(candidate.provider, candidate.model, reason)

    @property
    def reason(self) -> str:
        """Why it was not the primary's turn, where it never had one."""
        primary = self._call.candidates[0].candidate
        breaker = primary.breaker
        if breaker is not None and breaker.state != "closed":
            return f"breaker_{breaker.state}"
        return "slow_start" if self._spared else "bulkhead_full"

    async def _pause(self, failed: Failed) -> bool:
        """Wait as long as the primary's second turn should; False when it would come too late."""
        remaining_s = self._call.deadline_s - asyncio.get_running_loop().time()
        pause_s = failed.pause_s
        if pause_s is None:
            pause_s = random.uniform(*_PAUSE_S)  # noqa: S311 - jitter is no secret
        elif self._has_other(self._call.candidates[0]):
            remaining_s = min(remaining_s, self._max_retry_after_s)
        if pause_s >= remaining_s:
            return False
        if pause_s:
            await asyncio.sleep(pause_s)
        return True

    def _has_other(self, tried: PricedCandidate) -> bool:
        """Whether another candidate than this one takes calls now."""
        now_s = self._clock.monotonic_s()
        for other in self._call.candidates:
            breaker = other.candidate.breaker
            if other is not tried and (breaker is None or breaker.would_permit(now_s)):
                return True
        return False
