"""One streamed answer, from a provider to a caller: passed on as it comes, its end held back until it is settled.

Whoever runs a relay outlives the caller's connection: a caller who leaves has the answer read to its end without them,
within bounds, so that what it cost is known.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.completions.call import Call
from tollhouse.completions.dispatch import Failed, failure_of
from tollhouse.completions.estimate import utf8_bytes
from tollhouse.completions.guarding import blocked_by, kept_refusal
from tollhouse.completions.models import PricedCandidate
from tollhouse.completions.question import Prepared, Told
from tollhouse.completions.settling import estimated, tell
from tollhouse.completions.wire.base import StreamWriter
from tollhouse.errors import CallTimeout, GuardrailBlocked, TollhouseError, Unavailable
from tollhouse.kit.clock import Clock
from tollhouse.limits.model import Standing
from tollhouse.providers.base import OutcomeUnknown, TimedOut, WireResponse
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    events_of,
)
from tollhouse.providers.incoming import Incoming
from tollhouse.providers.sse import EventParser, EventTooLong, ServerSentEvent
from tollhouse.providers.usage import Usage

# A picture comes in one event; no event may be longer than an answer that comes whole.
_MAX_EVENT_BYTES = 32 * 1024 * 1024
_COMMENT = b": waiting\n\n"


class Sink(Protocol):
    """Where a streamed answer goes: the caller's connection.

    Attributes:
        standing: where the call's limits stood when it was admitted, for the head of its answer.
    """

    standing: tuple[Standing, ...]

    @property
    def has_begun(self) -> bool:
        """Whether something was sent, and with it the status."""

    @property
    def is_gone(self) -> bool:
        """Whether the caller has left; what is written is dropped then."""

    def write(self, data: bytes) -> None:
        """Send a piece of the answer, after its head if it is the first."""

    async def drain(self) -> None:
        """Wait until a caller who reads slowly has caught up; not for one who is gone, nor for ever."""

    def end(self, data: bytes) -> None:
        """Send the last piece."""


class StreamBounds(msgspec.Struct, frozen=True):
    """How long and how far streams go on under odd circumstances.

    Attributes:
        heartbeat_s: after so long without anything to pass on, a comment keeps the connection alive.
        commit_s: what comes before the first token is passed on after so long at the latest; until then, another
            candidate may take over unseen.
        drain_timeout_s: how long the answer is read on for a caller who has left.
        drain_bytes: … and how much of it.
    """

    heartbeat_s: float = 15.0
    commit_s: float = 1.0
    drain_timeout_s: float = 60.0
    drain_bytes: int = 4 * 1024 * 1024


class Relayed(msgspec.Struct, frozen=True):
    """An answer that was passed on but for its end.

    Attributes:
        last: what is to be sent once it is settled.
        whole: all that was sent and is to be sent, where the call has an idempotency key; else empty.
        is_broken: the provider broke it off.
        blocked: what a guardrail ended it with.
    """

    told: Told
    last: bytes
    whole: bytes
    is_broken: bool = False
    blocked: GuardrailBlocked | None = None


class _Abandoned(OutcomeUnknown):
    """The caller has left, and the answer goes on beyond the bounds within which it is read without them."""

    is_providers = False


class Relay:
    """Passes on the answer of one attempt.

    Attributes:
        has_begun: something of the answer was passed on, so that no other candidate can take over.
        silent_s: how long that took, or has taken so far.
        guard: what all that is passed on goes through, where guardrails have something to do with it. Once it has
            blocked the answer, that is read to its end all the same, for what it cost.
    """

    def __init__(
        self,
        call: Call,
        tried: PricedCandidate,
        reservation: Reservation,
        prepared: Prepared,
        sink: Sink,
        bounds: StreamBounds,
        clock: Clock,
    ) -> None:
        self.has_begun = False
        self.guard = None if call.guarded is None else call.guarded.stream()
        self._began_s: float | None = None
        self._call = call
        self._tried = tried
        self._reservation = reservation
        self._prepared = prepared
        self._sink = sink
        self._bounds = bounds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reader = prepared.dialect.stream_reader()
        # Made for the first event of a stream that is translated: nobody has read a relayed request in full.
        self._writer: StreamWriter | None = None
        self._finish: Finished | None = None
        self._early: list[bytes] = []
        self._held: list[bytes] = []
        self._kept: list[bytes] = []
        self._answer_bytes = 0
        self._unsent_bytes: int | None = None
        self._last_sent_s = self._made_s = self._loop.time()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self, may_send: Callable[[], bool]) -> Relayed | Failed:
        """Send the request, and pass its answer on. Never raises, but for cancellation.

        Failed after it has begun is what it was given up for, or an answer whose cost nobody can guess.
        """
        started_s = self._clock.monotonic_s()
        candidate, call = self._tried.candidate, self._call
        relayed: WireResponse | None = None
        if call.question.takes_comments:
            self._beat_in(self._bounds.heartbeat_s)
        try:
            opened = await candidate.transport.open(
                self._prepared.wire,
                begin_by_s=call.deadline_s,
                deadline_s=self._loop.time() + call.stream_timeout_s,
                first_byte_timeout_s=candidate.first_byte_timeout_s or candidate.timeout_s,
                pause_s=candidate.timeout_s,
                may_send=may_send,
            )
            broken: Exception | None = None
            if isinstance(opened, WireResponse):
                # An error under status 200 would pass for an answer.
                relayed = opened if self._prepared.is_relayed and opened.status != 200 else None
                self._take_whole(opened)
            else:
                broken = await self._pass_on(opened)
        except Exception as error:  # noqa: BLE001 - told apart there
            return failure_of(candidate, error, call.deadline_s, relayed, began_s=self._made_s)
        finally:
            for timer in (self._heartbeat, *self._timers):
                if timer is not None:
                    timer.cancel()
        latency_ms = round((self._clock.monotonic_s() - started_s) * 1000)
        try:
            if broken is not None and self._reader.thinks_unseen:
                # What can be seen of it would be billed for a fraction of what it cost.
                return Failed(self._told_error(broken), "unknown")
            return self._concluded(broken, latency_ms)
        except Exception as error:  # noqa: BLE001 - a defect in a format must not leave a reservation behind
            return failure_of(candidate, error, call.deadline_s)

    @property
    def silent_s(self) -> float:
        return (self._loop.time() if self._began_s is None else self._began_s) - self._made_s

    def _take_whole(self, response: WireResponse) -> None:
        """Take an answer that is no stream: raise what its error means, or pass it on as the events of one.

        Those are written anew, also for a caller who speaks the provider's format.
        """
        answer = self._prepared.dialect.decode(response)
        self._prepared = msgspec.structs.replace(self._prepared, is_relayed=False)
        self._reader.usage, self._reader.provider_request_id = answer.usage, answer.provider_request_id
        *events, finish = events_of(answer)
        assert isinstance(finish, Finished), "it comes last"
        self._finish = finish
        self._answer_bytes = sum(utf8_bytes(each.text) for each in events if isinstance(each, PartGrew))
        self.has_begun = True
        if piece := self._translated([*events, finish]):
            self._send(piece)

    async def _pass_on(self, incoming: Incoming) -> Exception | None:
        """Pass an answer on until its end; return what broke it off after it had begun, if anything did.

        Raises:
            ProviderError: it failed before anything of it was passed on, or was abandoned.
        """
        self._timers.append(self._loop.call_at(self._call.deadline_s, self._be_late, incoming))
        self._timers.append(self._loop.call_later(self._bounds.commit_s, self._commit))
        broken: Exception | None = None
        try:
            await self._read(incoming)
        except _Abandoned:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the answer ends here
            broken = error
        finally:
            incoming.close()
        # What follows the model's own end is the usage at most.
        if self._finish is not None:
            return None
        broken = broken or OutcomeUnknown("the answer ended before the model had come to its end")
        if not self.has_begun:
            raise broken
        return broken

    async def _read(self, incoming: Incoming) -> None:
        parser = EventParser(_MAX_EVENT_BYTES)
        while data := await incoming.read():
            has_sent = self._take_all(parser, data)
            if self._sink.is_gone:
                self._read_on(incoming, len(data))
            elif has_sent:
                await self._sink.drain()
        if parser.rest().strip():
            # Some servers leave out the empty line after the last event of an answer that ends as it should.
            self._take_all(parser, b"\n\n")

    def _take_all(self, parser: EventParser, data: bytes) -> bool:
        """Take what has come, and send what may be sent of it now; return whether that was anything."""
        out: list[bytes] = []
        try:
            for event in parser.feed(data):
                self._take(event, self._reader.read(event), out)
        except EventTooLong as error:
            raise OutcomeUnknown(str(error)) from error
        finally:
            # Also what came together with an error, and ahead of it.
            if out:
                self._send(b"".join(out))
        return bool(out)

    def _read_on(self, incoming: Incoming, size: int) -> None:
        """Bound the reading for a caller who has left."""
        abandoned = _Abandoned("the caller has left, and the answer went on for longer than it is read without them")
        if self._unsent_bytes is None:
            self._unsent_bytes = 0
            self._timers.append(self._loop.call_later(self._bounds.drain_timeout_s, incoming.end, abandoned))
        self._unsent_bytes += size
        if self._unsent_bytes > self._bounds.drain_bytes:
            raise abandoned

    def _take(self, event: ServerSentEvent, events: Sequence[StreamEvent], out: list[bytes]) -> None:
        """Take an event: what may be sent now goes to ``out``."""
        for each in events:
            if isinstance(each, PartGrew):
                self._answer_bytes += utf8_bytes(each.text)
            elif isinstance(each, Finished):
                self._finish = each
        if not self._prepared.is_relayed:
            piece = self._translated(events)
        else:
            piece = b"" if self._call.question.hides(event.data) else event.raw
        if piece and self.guard is not None:
            piece = self.guard.feed(piece)
        if not piece:
            return
        if self._finish is not None and self._prepared.is_relayed:
            # From the model's end on, all waits until it is settled.
            self._held.append(piece)
        elif self.has_begun:
            out.append(piece)
        elif events:
            self.has_begun = True
            out.extend((*self._early, piece))
            self._early.clear()
        else:
            self._early.append(piece)

    def _translated(self, events: Sequence[StreamEvent]) -> bytes:
        if not events:
            return b""
        begun = b""
        if self._writer is None:
            self._writer = self._call.question.writer(self._call.request_id, self._clock.now_ms() // 1000)
            begun = self._writer.begin()
        return begun + b"".join(map(self._writer.write, events))

    def _send(self, data: bytes) -> None:
        """Send a piece; where the caller has left, it is still kept for whoever asks again."""
        if self._call.claim is not None:
            self._kept.append(data)
        self._last_sent_s = self._loop.time()
        if self._began_s is None:
            self._began_s = self._last_sent_s
        self._sink.write(data)

    def _commit(self) -> None:
        """Pass on what came before the first token, which takes its time."""
        if self._early and not self.has_begun:
            self.has_begun = True
            early, self._early = self._early, []
            self._send(b"".join(early))
        elif not self.has_begun:
            self._timers.append(self._loop.call_later(self._bounds.commit_s, self._commit))

    def _beat(self) -> None:
        """Keep a connection alive on which nothing has been sent for a while."""
        if self._sink.is_gone:
            return
        silent_s = self._loop.time() - self._last_sent_s
        if silent_s >= self._bounds.heartbeat_s:
            self._last_sent_s = self._loop.time()
            self._sink.write(_COMMENT)
            silent_s = 0.0
        self._beat_in(self._bounds.heartbeat_s - silent_s)

    def _beat_in(self, delay_s: float) -> None:
        self._heartbeat = self._loop.call_later(delay_s, self._beat)

    def _be_late(self, incoming: Incoming) -> None:
        if not self.has_begun:
            incoming.end(TimedOut("it did not begin its answer by the call's deadline"))

    def _concluded(self, broken: Exception | None, latency_ms: int) -> Relayed:
        """Price what was passed on, and decide what comes last."""
        call, question = self._call, self._call.question
        usage = self._reader.usage
        finish: FinishReason = "other" if self._finish is None else self._finish.finish_reason
        is_estimated = broken is not None or usage is None or self._reader.is_behind
        if is_estimated:
            usage = _received(usage, estimated(call, self._answer_bytes))
        answer = ProviderAnswer(
            content="",
            finish_reason=finish,
            usage=usage,
            provider_request_id=self._reader.provider_request_id,
            stop_sequence=None if self._finish is None else self._finish.stop_sequence,
        )
        told = tell(
            call,
            self._tried,
            self._reservation,
            answer,
            latency_ms=latency_ms,
            now_ms=self._clock.now_ms(),
            answer_bytes=self._answer_bytes,
        )
        told = msgspec.structs.replace(told, usage_source="estimated" if is_estimated else "reported")
        if broken is not None:
            last = question.failure(self._told_error(broken), call.request_id)
        elif self._prepared.is_relayed:
            last = b"".join((*self._early, *self._held))
        else:
            assert self._writer is not None, "the model's end was written"
            last = question.last(self._writer, told)
            last = last if self.guard is None else self.guard.feed(last)
        blocked = None
        if self.guard is not None:
            if broken is None:
                last += self.guard.end(finish)
            blocked = blocked_by(self.guard.session)
        whole = b""
        if blocked is not None:
            last = question.failure(blocked, call.request_id)
        if call.claim is not None:
            is_refused = blocked is not None and not self.has_begun
            whole = kept_refusal(blocked) if blocked and is_refused else b"".join((*self._kept, last))
        return Relayed(told, last, whole, is_broken=broken is not None, blocked=blocked)

    def _told_error(self, broken: Exception) -> TollhouseError:
        name = self._tried.candidate.provider
        if isinstance(broken, TimedOut):
            return CallTimeout(f"{name} timed out in the midst of its answer: {broken}")
        return Unavailable(f"{name} broke its answer off: {broken}")


def _received(reported: Usage | None, estimated: Usage) -> Usage:
    """Return what an answer has probably used whose end the provider has not counted.

    What it reported before is its own count of the input; its count of output began at nothing.
    """
    if reported is None:
        return estimated
    written = max(reported.output_tokens, estimated.output_tokens - reported.reasoning_tokens)
    return msgspec.structs.replace(reported, output_tokens=written)
