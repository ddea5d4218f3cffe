"""The hot path: identify → gate → rate limit → reserve → dispatch → relay → settle → answer.

``Pipeline.complete`` is the whole of it, for a caller that is identified. Gate, rate limit and reserve are one
durable step (``Gate.admit``). An attempt that was admitted always ends in the ledger, settled, released or held as
unknown, before anybody is told of it.
"""

import asyncio
import random

import msgspec

from tollhouse.audit.service import AuditLog
from tollhouse.budgets.model import Reservation
from tollhouse.completions.call import Answer, Call
from tollhouse.completions.dispatch import Failed, Received, count_at, dispatch, failure_of
from tollhouse.completions.models import PricedCandidate
from tollhouse.completions.question import Prepared
from tollhouse.completions.relay import Relay, Sink, StreamBounds
from tollhouse.completions.settling import count, settlement_of, tell
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.gate.service import Gate
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.model import Settlement
from tollhouse.ledger.service import Ledger
from tollhouse.telemetry.metrics import Metrics

# Before the primary is tried again: at random, so that the calls hit by one outage do not return together.
_PAUSE_S = (0.05, 0.25)
# A provider that asks for a longer pause is not waited for; a fallback may answer meanwhile.
_LONGEST_PAUSE_S = 2.0


class _Admitted(msgspec.Struct, frozen=True, gc=False):
    """An attempt that may be dispatched: its ceiling is durably reserved."""

    reservation: Reservation
    prepared: Prepared
    admission: Admitted


class Pipeline:
    """Takes calls through all that they have to pass."""

    def __init__(
        self,
        *,
        gate: Gate,
        ledger: Ledger,
        audit: AuditLog,
        metrics: Metrics,
        clock: Clock,
        bounds: StreamBounds = StreamBounds(),  # noqa: B008 - frozen
    ) -> None:
        self._bounds = bounds
        self._gate = gate
        self._ledger = ledger
        self._audit = audit
        self._metrics = metrics
        self._clock = clock

    async def complete(self, call: Call, sink: Sink | None = None) -> Answer | None:
        """Serve a call from the first candidate that answers by its deadline.

        Args:
            sink: takes a streamed answer; None is returned once it has taken all of one.

        Raises:
            TollhouseError: each refusal and failure of the public contract.
        """
        failed: Failed | None = None
        epoch = 0
        # The primary is tried twice before its fallbacks.
        for attempt, tried in enumerate((call.candidates[0], *call.candidates), start=1):
            if failed is not None:
                if not failed.may_go_on:
                    break
                if not await self._wait_for(call, tried, failed):
                    continue
            admitted = await self._admit(call, tried, attempt, failed, epoch)
            outcome: Answer | Failed | None
            if not isinstance(admitted, _Admitted):
                outcome = admitted
            elif sink is not None and call.question.is_stream:
                outcome = await self._stream(call, tried, admitted, sink)
            else:
                outcome = await self._carry_out(call, tried, admitted)
            if not isinstance(outcome, Failed):
                return outcome
            failed = outcome
            if isinstance(admitted, _Admitted):
                epoch = admitted.admission.epoch
        assert failed is not None, "every call has a candidate"
        if call.claim is not None and failed.outcome != "unknown":
            await self._ledger.free(call.claim, call.request_id)
        try:
            raise failed.error
        finally:
            # The error's traceback holds this frame: without its names for the error, both are freed at once, and the
            # prompt with them.
            del failed, outcome, admitted

    async def count_tokens(self, call: Call) -> Answer:
        """Count the tokens of a prompt, free of charge, for a caller whom the gate lets through.

        A provider that cannot count has them estimated from the text.

        Raises:
            TollhouseError: the gate says no, or the provider does.
        """
        tried = call.candidates[0]
        free = msgspec.structs.replace(call, ceiling_nano_usd=0)
        reservation = free.reservation(tried, 1, self._clock.now_ms())
        admitted = await self._gate.admit(Admission(reservation, tiers=call.tiers))
        assert isinstance(admitted, Admitted), "no idempotency key, no replay"
        try:
            counted = await count_at(tried.candidate, call, admitted.may_dispatch)
        finally:
            await self._ledger.release(reservation)
        if isinstance(counted, Failed):
            raise counted.error
        return Answer(counted, call.request_id)

    async def _wait_for(self, call: Call, tried: PricedCandidate, failed: Failed) -> bool:
        """Wait as long as a further attempt should; False when it would come too late."""
        remaining_s = call.deadline_s - asyncio.get_running_loop().time()
        if tried is not call.candidates[0]:
            return remaining_s > 0
        pause_s = failed.pause_s or random.uniform(*_PAUSE_S)  # noqa: S311 - jitter is no secret
        if pause_s > min(remaining_s, _LONGEST_PAUSE_S):
            return False
        await asyncio.sleep(pause_s)
        return True

    async def _admit(
        self, call: Call, tried: PricedCandidate, attempt: int, failed: Failed | None, epoch: int
    ) -> _Admitted | Answer | Failed:
        """Have one attempt admitted, or answered with what was kept for its idempotency key.

        Args:
            failed: what became of the attempt before, or None for the first. Refusals of the first are raised, since
                it holds nothing yet; a later one's end the call like any failure.
            epoch: what the attempt before was admitted in.
        """
        try:
            prepared = call.question.prepare(tried.candidate)
            reservation = call.reservation(tried, attempt, self._clock.now_ms())
            is_first = failed is None
            if tried is not call.candidates[0]:
                await self._tell_of_switch(call, tried)
            admitted = await self._gate.admit(
                Admission(
                    reservation, call.claim if is_first else None, is_first=is_first, epoch=epoch, tiers=call.tiers
                )
            )
        except TollhouseError as refusal:
            if failed is None:
                raise
            # A fallback that cannot express the call is passed over.
            return failed if isinstance(refusal, InvalidRequest) else Failed(refusal, "refused")
        if isinstance(admitted, Replay):
            return call.replay(admitted)
        return _Admitted(reservation, prepared, admitted)

    async def _carry_out(self, call: Call, tried: PricedCandidate, admitted: _Admitted) -> Answer | Failed:
        """Dispatch an admitted attempt, and enter what became of it."""
        reservation = admitted.reservation
        started_s = self._clock.monotonic_s()
        prepared, may_send = admitted.prepared, admitted.admission.may_dispatch
        received = await dispatch(tried.candidate, prepared, call.deadline_s, may_send)
        duration_s = self._clock.monotonic_s() - started_s
        latency_ms = round(duration_s * 1000)
        outcome: tuple[Settlement, bytes] | Failed
        if isinstance(received, Received):
            outcome = self._written(call, tried, admitted, received, latency_ms)
        else:
            outcome = received
        result = outcome.outcome if isinstance(outcome, Failed) else "settled"
        self._metrics.attempted(reservation.provider, reservation.model, result, duration_s)
        try:
            if isinstance(outcome, Failed):
                await self._give_up(call, reservation, outcome, latency_ms)
                return outcome
            settlement, body = outcome
            count(self._metrics, settlement)
            await self._ledger.settle(settlement)
        except TollhouseError as error:
            # Written later, together with what a retry under the same idempotency key is to find then.
            return Failed(error, outcome.outcome if isinstance(outcome, Failed) else "unknown")
        return Answer(body, call.request_id)

    def _written(
        self, call: Call, tried: PricedCandidate, admitted: _Admitted, received: Received, latency_ms: int
    ) -> tuple[Settlement, bytes] | Failed:
        """Price an answer, and write it as the caller gets it; an answer that cannot be written is held."""
        now_ms = self._clock.now_ms()
        raw = received.raw if admitted.prepared.is_relayed else None
        try:
            told = tell(
                call, tried, admitted.reservation, received.answer, latency_ms=latency_ms, now_ms=now_ms, raw=raw
            )
            body = call.question.body(told)
            return settlement_of(call, admitted.reservation, told, body, utc_text(now_ms)), body
        except Exception as error:  # noqa: BLE001 - a defect in a format must not leave a reservation behind
            return failure_of(tried.candidate, error, call.deadline_s)

    async def _stream(self, call: Call, tried: PricedCandidate, admitted: _Admitted, sink: Sink) -> Failed | None:
        """Dispatch an admitted attempt whose answer is passed on as it comes, and enter what became of it.

        Failed only as long as nothing of an answer was passed on: what fails later has been told in the stream.
        """
        reservation = admitted.reservation
        started_s = self._clock.monotonic_s()
        relay = Relay(call, tried, reservation, admitted.prepared, sink, self._bounds, self._clock)
        outcome = await relay.run(admitted.admission.may_dispatch)
        duration_s = self._clock.monotonic_s() - started_s
        result = outcome.outcome if isinstance(outcome, Failed) else "settled"
        self._metrics.attempted(reservation.provider, reservation.model, result, duration_s)
        latency_ms = round(duration_s * 1000)
        try:
            if isinstance(outcome, Failed):
                await self._give_up(call, reservation, outcome, latency_ms)
                if not relay.has_begun:
                    return outcome
                sink.end(call.question.failure(outcome.error, call.request_id))
                return None
            now = utc_text(self._clock.now_ms())
            settlement = settlement_of(call, reservation, outcome.told, outcome.whole, now)
            count(self._metrics, settlement)
            await self._ledger.settle(settlement)
        except TollhouseError as error:
            if not relay.has_begun:
                return Failed(error, "unknown")
            sink.end(call.question.failure(error, call.request_id))
            return None
        sink.end(outcome.last)
        return None

    async def _give_up(self, call: Call, reservation: Reservation, failed: Failed, latency_ms: int) -> None:
        """Enter an attempt that brought no answer."""
        if failed.outcome == "unknown":
            await self._ledger.hold(reservation, latency_ms, call.claim)
        else:
            await self._ledger.release(reservation)

    async def _tell_of_switch(self, call: Call, tried: PricedCandidate) -> None:
        primary = call.candidates[0].candidate
        await self._audit.record(
            "provider.switched",
            tenant_id=call.tenant_id,
            target=call.request_id,
            before={"provider": primary.provider, "model": primary.model},
            after={"provider": tried.candidate.provider, "model": tried.candidate.model},
        )
