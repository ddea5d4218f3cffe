"""The hot path: identify → gate → rate limit → reserve → dispatch → relay → settle → answer.

``Pipeline.complete`` is the whole of it, for a caller that is identified. Gate, rate limit and reserve are one
durable step (``Gate.admit``). An attempt that was admitted always ends in the ledger, settled, released or held as
unknown, before anybody is told of it.
"""

import asyncio
from contextlib import suppress

import msgspec

from tollhouse.audit.journal import AuditJournal
from tollhouse.budgets.model import Reservation
from tollhouse.completions.call import Answer, Call
from tollhouse.completions.deadlines import Deadlines
from tollhouse.completions.dispatch import Failed, Received, count_at, dispatch, failure_of
from tollhouse.completions.failover import Course, Turn
from tollhouse.completions.guarding import blocked_by, kept_refusal
from tollhouse.completions.hedging import Background, Hedging, Race, better
from tollhouse.completions.question import Prepared
from tollhouse.completions.relay import Relay, Sink, StreamBounds
from tollhouse.completions.settling import count, settlement_of, tell
from tollhouse.errors import InvalidRequest, TollhouseError, Unavailable
from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.gate.service import Gate
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.log import FindingsLog
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.model import Settlement
from tollhouse.ledger.service import Ledger
from tollhouse.telemetry.metrics import Metrics
from tollhouse.tenants.tiers import TenantTiers

_BROKEN_OFF = Failed(Unavailable("the provider broke its answer off"), "settled", cause="broken_off", verdict="failed")


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
        journal: AuditJournal,
        findings: FindingsLog,
        metrics: Metrics,
        clock: Clock,
        bounds: StreamBounds = StreamBounds(),  # noqa: B008 - frozen
        tiers: TenantTiers,
        max_retry_after_s: float = 2.0,
        hedging: Hedging | None = None,
    ) -> None:
        """``max_retry_after_s``: see ``Course``."""
        self._tiers = tiers
        self._bounds = bounds
        self._gate = gate
        self._ledger = ledger
        self._journal = journal
        self._findings = findings
        self._max_retry_after_s = max_retry_after_s
        self._deadlines = Deadlines()
        self._hedging = hedging
        self.background = Background()
        self._metrics = metrics
        self._clock = clock

    def now_ms(self) -> int:
        """Return the time of day that calls are admitted by."""
        return self._clock.now_ms()

    async def complete(self, call: Call, sink: Sink | None = None) -> Answer | None:
        """Serve a call from the first candidate that answers by its deadline.

        Args:
            sink: takes a streamed answer; None is returned once it has taken all of one.

        Raises:
            TollhouseError: each refusal and failure of the public contract.
        """
        self._refuse_blocked(call)
        if call.tier_chains is not None:
            call = call.for_tier(await self._tiers.tier_of(call.tenant_id))
        course = Course(call, self._clock, self._metrics, self._max_retry_after_s)
        failed: Failed | None = None
        admission: Admitted | None = None
        attempt = 0
        while (turn := await course.next(failed)) is not None:
            attempt += 1
            outcome: Answer | Failed | None
            try:
                admitted = await self._admit(call, turn, attempt, admission)
                if isinstance(admitted, _Admitted):
                    if admission is None and sink is not None:
                        sink.standing = admitted.admission.standing
                    admission = admitted.admission
                    if turn.tried is not call.candidates[0]:
                        self._tell_of_switch(call, turn, course.reason if failed is None else failed.cause)
                    hedging = self._hedging
                    delay_s = None if hedging is None else hedging.delay_s(call, turn.candidate)
                    if sink is not None and call.question.is_stream:
                        outcome = await self._stream(call, turn, admitted, sink)
                    elif delay_s is None:
                        outcome = await self._carry_out(call, turn, admitted)
                    else:
                        attempt += 1
                        outcome = await self._hedge(call, course, turn, admitted, attempt, delay_s)
                elif admitted is None:
                    # It cannot express the call, and is passed over.
                    attempt -= 1
                    continue
                else:
                    outcome = admitted
            finally:
                if not turn.runs_on:
                    turn.give_up()
            if not isinstance(outcome, Failed):
                if outcome is not None and outcome.blocked is not None:
                    raise outcome.blocked
                return outcome
            failed = outcome
        if failed is None:
            raise course.nobody()
        if call.claim is not None and admission is not None and failed.outcome != "unknown":
            await self._ledger.free(call.claim, call.request_id)
        try:
            raise failed.error
        finally:
            # The error's traceback holds this frame: without its names for the error, both are freed at once, and the
            # prompt with them.
            del failed, outcome, admitted, turn, course

    async def count_tokens(self, call: Call) -> Answer:
        """Count the tokens of a prompt, free of charge, for a caller whom the gate lets through.

        A provider that cannot count has them estimated from the text.

        Raises:
            TollhouseError: the gate says no, or the provider does.
        """
        self._refuse_blocked(call)
        tried = call.candidates[0]
        breaker = tried.candidate.breaker
        if breaker is not None and not breaker.would_permit(self._clock.monotonic_s()):
            raise Course(call, self._clock, self._metrics, 0.0).nobody_but(tried)
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

    def _refuse_blocked(self, call: Call) -> None:
        """Refuse a call whose request a guardrail has blocked: nothing is reserved, and nothing dispatched."""
        guarded = call.guarded
        if guarded is not None and guarded.blocked is not None:
            self._note(call, guarded.findings)
            raise guarded.blocked

    def _note(self, call: Call, findings: Findings) -> None:
        self._findings.note(
            findings,
            request_id=call.request_id,
            tenant_id=call.tenant_id,
            user_id=call.user_id,
            feature_slug=call.feature_slug,
        )

    async def _admit(
        self, call: Call, turn: Turn, attempt: int, before: Admitted | None
    ) -> _Admitted | Answer | Failed | None:
        """Have one attempt admitted, or answered with what was kept for its idempotency key.

        Args:
            before: the admission of the attempt before, or None for the first. Refusals of the first are raised, since
                it holds nothing yet; a later one's end the call like any failure.

        Returns:
            None for a fallback that cannot express the call.
        """
        try:
            prepared = call.question.prepare(turn.candidate)
        except InvalidRequest:
            if turn.tried is call.candidates[0]:
                raise
            return None
        reservation = call.reservation(turn.tried, attempt, self._clock.now_ms())
        is_first = before is None
        admitting: asyncio.Future[Admitted | Replay] | None = None
        try:
            admitting = self._gate.admit(
                Admission(
                    reservation,
                    call.claim if is_first else None,
                    is_first=is_first,
                    epoch=0 if before is None else before.epoch,
                    tiers=call.tiers,
                    tokens=call.tokens,
                )
            )
            self._deadlines.watch(admitting, call.deadline_s)
            admitted = await admitting
        except TollhouseError as refusal:
            if is_first:
                raise
            return Failed(refusal, "refused")
        finally:
            # The refusal's traceback holds this frame, and the future the refusal: without the name for the future all
            # are freed at once, so that who goes on calling over his limit has nobody wait for the garbage collector.
            admitting = None
        if isinstance(admitted, Replay):
            return call.replay(admitted)
        if is_first and call.guarded is not None:
            self._note(call, call.guarded.findings)
        return _Admitted(reservation, prepared, admitted)

    async def _hedge(
        self, call: Call, course: Course, turn: Turn, admitted: _Admitted, attempt: int, delay_s: float
    ) -> Answer | Failed:
        """Carry an attempt out, and should it take longer than ``delay_s``, another one beside it."""
        race = Race()
        start = self.background.start
        turn.runs_on = True
        attempts = {start(self._run_on(call, turn, admitted, race))}
        done, _ = await asyncio.wait(attempts, timeout=delay_s)
        assert self._hedging is not None
        if not done and self._hedging.take() and (other := await course.again(turn)) is not None:
            second = await self._admit(call, other, attempt, admitted.admission)
            if not isinstance(second, _Admitted):
                other.give_up()
            elif race.is_decided:
                other.give_up()
                # What cannot be written now is kept, and written later.
                with suppress(TollhouseError):
                    await self._ledger.release(second.reservation)
            else:
                race.join()
                self._metrics.hedged(turn.candidate.provider, turn.candidate.model)
                attempts.add(start(self._run_on(call, other, second, race)))
        outcomes = []
        while attempts:
            done, attempts = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
            outcomes += [task.result() for task in done]
            if race.is_won:
                break
        return better(outcomes)

    async def _run_on(self, call: Call, turn: Turn, admitted: _Admitted, race: Race) -> Answer | Failed:
        """Carry out one of two attempts, to its end whatever becomes of the call."""
        try:
            return await self._carry_out(call, turn, admitted, race)
        except BaseException:
            race.drop()
            raise
        finally:
            turn.give_up()

    async def _carry_out(
        self, call: Call, turn: Turn, admitted: _Admitted, race: Race | None = None
    ) -> Answer | Failed:
        """Dispatch an admitted attempt, and enter what became of it."""
        reservation = admitted.reservation
        started_s = self._clock.monotonic_s()
        prepared, may_send = admitted.prepared, admitted.admission.may_dispatch
        received = await dispatch(turn.candidate, prepared, call.deadline_s, may_send)
        ended_s = self._clock.monotonic_s()
        duration_s = ended_s - started_s
        latency_ms = round(duration_s * 1000)
        outcome: tuple[Settlement, Answer] | Failed
        if isinstance(received, Received):
            turn.succeed(duration_s, ended_s)
            if race is not None and not race.win():
                call = msgspec.structs.replace(call, claim=None)
            outcome = self._written(call, turn, admitted, received, latency_ms)
        else:
            outcome = turn.fail(received, duration_s)
        result = outcome.outcome if isinstance(outcome, Failed) else "settled"
        self._metrics.attempted(reservation.provider, reservation.model, result, duration_s)
        try:
            if isinstance(outcome, Failed):
                if race is not None and isinstance(received, Failed) and await race.lose():
                    call = msgspec.structs.replace(call, claim=None)
                await self._give_up(call, reservation, outcome, latency_ms)
                return outcome
            settlement, answer = outcome
            count(self._metrics, settlement)
            await self._ledger.settle(settlement)
        except TollhouseError as error:
            # Written later, together with what a retry under the same idempotency key is to find then.
            return Failed(error, outcome.outcome if isinstance(outcome, Failed) else "unknown")
        return answer

    def _written(
        self, call: Call, turn: Turn, admitted: _Admitted, received: Received, latency_ms: int
    ) -> tuple[Settlement, Answer] | Failed:
        """Price an answer, and write it as the caller gets it; an answer that cannot be written is held.

        An answer that a guardrail blocks is paid for like any other.
        """
        now_ms = self._clock.now_ms()
        raw = received.raw if admitted.prepared.is_relayed else None
        try:
            told = tell(
                call, turn.tried, admitted.reservation, received.answer, latency_ms=latency_ms, now_ms=now_ms, raw=raw
            )
            body = call.question.body(told)
            answer = Answer(body, call.request_id)
            if call.guarded is not None and call.guarded.guards_answer:
                session = call.guarded.session()
                body = session.body(body, call.guarded.api, told.answer.finish_reason)
                blocked = blocked_by(session)
                self._note(call, session.findings)
                answer = Answer(body, call.request_id, blocked=blocked)
                body = body if blocked is None else kept_refusal(blocked)
            return settlement_of(call, admitted.reservation, told, body, utc_text(now_ms)), answer
        except Exception as error:  # noqa: BLE001 - a defect in a format must not leave a reservation behind
            return failure_of(turn.candidate, error, call.deadline_s)

    async def _stream(self, call: Call, turn: Turn, admitted: _Admitted, sink: Sink) -> Answer | Failed | None:
        """Dispatch an admitted attempt whose answer is passed on as it comes, and enter what became of it.

        Failed only as long as nothing of an answer was passed on: what fails later has been told in the stream.
        """
        reservation = admitted.reservation
        started_s = self._clock.monotonic_s()
        relay = Relay(call, turn.tried, reservation, admitted.prepared, sink, self._bounds, self._clock)
        outcome = await relay.run(admitted.admission.may_dispatch)
        ended_s = self._clock.monotonic_s()
        duration_s = ended_s - started_s
        if isinstance(outcome, Failed):
            outcome = turn.fail(outcome, duration_s)
        elif outcome.is_broken:
            turn.fail(_BROKEN_OFF, relay.silent_s)
        else:
            turn.succeed(relay.silent_s, ended_s)
        result = outcome.outcome if isinstance(outcome, Failed) else "settled"
        self._metrics.attempted(reservation.provider, reservation.model, result, duration_s)
        if relay.guard is not None:
            self._note(call, relay.guard.session.findings)
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
        if outcome.blocked is not None and not relay.has_begun:
            return Answer(b"", call.request_id, blocked=outcome.blocked)
        sink.end(outcome.last)
        return None

    async def _give_up(self, call: Call, reservation: Reservation, failed: Failed, latency_ms: int) -> None:
        """Enter an attempt that brought no answer."""
        if failed.outcome == "unknown":
            await self._ledger.hold(reservation, latency_ms, call.claim)
        else:
            await self._ledger.release(reservation)

    def _tell_of_switch(self, call: Call, turn: Turn, reason: str) -> None:
        """Take down that a fallback was admitted: those of a tenant within a second are one entry in the audit log."""
        primary, other = call.candidates[0].candidate, turn.candidate
        self._metrics.switched(primary.model, other.model, reason)
        self._journal.note(
            "provider.switched",
            (primary.model, other.model, reason),
            tenant_id=call.tenant_id,
            target=call.request_id,
            before={"provider": primary.provider, "model": primary.model},
            after={"provider": other.provider, "model": other.model, "reason": reason},
        )
