"""HTTP/1.1 on one connection: a request out, an answer in, and whether the connection may serve again."""

import asyncio
import math
import select
import ssl
from collections.abc import Callable
from typing import cast

from tollhouse.providers.answer import Answer, BadAnswer
from tollhouse.providers.base import NotSent, OutcomeUnknown, ProviderError, TimedOut, Unreachable, WireResponse
from tollhouse.providers.incoming import Incoming

# A request that is sent this shortly before the server hangs up, as it announced, may cross its goodbye.
_KEEP_ALIVE_MARGIN_S = 1.0


class Connection(asyncio.Protocol):
    """One connection to a provider, for one exchange at a time.

    Args:
        name: the provider's host, for messages.
        max_answer_bytes: bound on an answer's body, decompressed as well as on the wire.
        max_header_bytes: bound on everything up to the end of an answer's headers.
        on_lost: called once, when the connection is gone for whatever reason.

    Attributes:
        ready: a request may go out: connected, nothing outstanding, nothing unasked-for has arrived.
        unusable_at_s: loop time from which on the idle connection is no longer to be used.
    """

    def __init__(
        self,
        name: str,
        max_answer_bytes: int,
        max_header_bytes: int,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.ready = False
        self.unusable_at_s = math.inf
        self._idle_limit_s = math.inf
        self._name = name
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._closed = False
        self._arrivals = select.poll()
        self._transport: asyncio.Transport | None = None
        # The answer that is waited for, read by the reader.
        self._answer: Answer | None = None
        self._reader = Answer(max_answer_bytes, max_header_bytes)
        self._waiter: asyncio.Future[WireResponse | Incoming] | None = None
        # The answer that is passed on as it comes, and the longest that it may pause.
        self._incoming: Incoming | None = None
        self._pause_s = math.inf
        self._end_by_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._due_s = 0.0
        self._deadline_s = 0.0

    # The pool's side.

    def rest(self, idle_timeout_s: float) -> None:
        """Note that the connection is idle now, and for how long it may be and still be used."""
        self.unusable_at_s = self._loop.time() + min(idle_timeout_s, self._idle_limit_s)

    def usable(self) -> bool:
        """Return whether an idle connection can take a request.

        The socket itself is asked: a goodbye, or bytes that nobody asked for, may have arrived without the
        loop having come round to read them.
        """
        return self.ready and self._loop.time() < self.unusable_at_s and not self._arrivals.poll(0)

    def send(
        self,
        request: bytes,
        deadline_s: float,
        first_byte_timeout_s: float | None,
        pause_s: float | None = None,
        end_by_s: float = math.inf,
    ) -> asyncio.Future[WireResponse | Incoming]:
        """Write a whole request, and return the future of its answer.

        The future fails with OutcomeUnknown, and with TimedOut for a deadline. Whoever stops waiting for it
        has to close the connection.

        Args:
            request: head and body.
            deadline_s: loop time by which the answer has to be complete, or begun if it is passed on as it comes.
            first_byte_timeout_s: seconds from now by which the answer's head has to be there, or None.
            pause_s: for an answer that is to be passed on as it comes, if it is a stream with status 200: the longest
                that it may pause, in seconds. The future's result is then its ``Incoming``, once its head has arrived.
            end_by_s: loop time by which such an answer has to be complete.

        Raises:
            NotSent: the connection was lost, or the deadline passed, before anything was written.
        """
        now_s = self._loop.time()
        if deadline_s <= now_s:
            raise NotSent(f"the deadline passed before the request to {self._name} could be sent")
        if not self.ready or self._transport is None:
            raise Unreachable(f"{self._name} closed the connection before the request was sent")
        first_s = deadline_s if first_byte_timeout_s is None else now_s + first_byte_timeout_s
        self.ready = False
        self._deadline_s = deadline_s
        self._due_s = min(first_s, deadline_s)
        if self._due_s < self._timer_s:
            self._set_timer()
        self._answer = self._reader
        if pause_s is not None:
            self._incoming = Incoming(self._hold)
            self._pause_s, self._end_by_s = pause_s, end_by_s
            self._reader.take = self._incoming.add
        self._waiter = waiter = self._loop.create_future()
        self._transport.write(request)
        return waiter

    def close(self, failure: ProviderError | None = None) -> None:
        """Drop the connection at once; an outstanding answer fails with ``failure``."""
        self.ready = False
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        incoming = self._incoming
        waiter = self._end_exchange()
        self._reader.discard()
        if self._transport is not None:
            self._transport.abort()
        if failure is None and (waiter is not None or incoming is not None):
            failure = OutcomeUnknown(f"the connection to {self._name} was given up")
        if incoming is not None:
            incoming.end(failure)
        if waiter is not None and not waiter.done():
            assert failure is not None
            waiter.set_exception(failure)
            # Asking for it marks it as seen: when the caller was cancelled as well, nobody else will.
            waiter.exception()

    def hang_up(self) -> None:
        """Close an idle connection with a proper goodbye, and only after what TLS still has to send."""
        self.ready = False
        if self._transport is not None:
            self._transport.close()

    async def closed(self) -> None:
        """Wait until the socket of a connection that was made is gone."""
        await self._lost.wait()

    # The loop's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._closed:
            # Behind a proxy the TLS session may end before its connection is announced here.
            self._transport.abort()
            return
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.ready = True

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            # Bytes that no request asked for must never be taken for the next request's answer.
            self.close()
            return
        try:
            is_complete = answer.feed(data)
            if self._incoming is not None:
                self._go_on(self._incoming, answer)
            if is_complete:
                self._finish(answer)
        except BadAnswer as error:
            self._fail(error)

    def _go_on(self, incoming: Incoming, answer: Answer) -> None:
        """See to a streamed answer of which something has come."""
        if not answer.is_passed_on:
            return
        self._deadline_s = self._end_by_s
        self._expect_more(is_held=incoming.is_held)
        if self._waiter is not None and not self._waiter.done():
            incoming.headers = answer.headers
            self._waiter.set_result(incoming)

    def _hold(self, is_held: bool) -> None:
        """Stop reading while the answer is read more slowly than it comes: the pause is not the provider's then."""
        if self._transport is None or self._incoming is None:
            return
        self._expect_more(is_held=is_held)
        if is_held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _expect_more(self, *, is_held: bool) -> None:
        """Note by when the next piece has to come: while the connection does not read, by the deadline at least."""
        self._due_s = self._deadline_s
        if not is_held:
            self._due_s = min(self._loop.time() + self._pause_s, self._due_s)
        if self._due_s < self._timer_s:
            self._set_timer()

    def eof_received(self) -> None:
        # A body without length or chunks ends with the connection. On a bare socket a crash of the server
        # looks the same; TLS says goodbye first (RFC 8446 §6.1), and without that the body counts as cut.
        answer = self._answer
        if answer is None or not answer.ends_with_connection() or not self._said_goodbye():
            self.close(self._cut_off(None))
            return
        try:
            self._finish(answer)
        except BadAnswer as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.close(self._cut_off(exc))
        self._lost.set()
        self._on_lost(self)

    def _finish(self, answer: Answer) -> None:
        response = answer.response()
        reusable, keep_alive_s = answer.reusable, answer.keep_alive_s
        incoming = self._incoming
        waiter = self._end_exchange()
        transport = self._transport
        # A server may answer before it has read the whole request; what is left of it must not go out in
        # front of the next one.
        if reusable and transport is not None and not transport.get_write_buffer_size():
            if keep_alive_s is not None:
                self._idle_limit_s = keep_alive_s - _KEEP_ALIVE_MARGIN_S
            if incoming is not None and incoming.is_held:
                transport.resume_reading()
            self.ready = True
        else:
            self.close()
        if incoming is not None:
            incoming.end()
        if waiter is not None and not waiter.done():
            waiter.set_result(response)

    def _fail(self, error: BadAnswer) -> None:
        failure = OutcomeUnknown(f"the answer of {self._name} {error}")
        failure.__cause__ = error
        self.close(failure)

    def _cut_off(self, error: Exception | None) -> OutcomeUnknown:
        where = "in the middle of its answer" if self._answer and self._answer.begun else "without an answer"
        failure = OutcomeUnknown(f"{self._name} closed the connection {where}")
        failure.__cause__ = error
        return failure

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = self._due_s
        self._timer = self._loop.call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        """Fail the exchange that is due; if there is none, or it is due later, see to the timer.

        An answer that comes in time leaves the timer running for the exchanges after it: they are due later,
        and setting a timer is the dearest part of an exchange that can be saved.
        """
        fired_s, self._timer_s, self._timer = self._timer_s, math.inf, None
        if self._answer is None:
            return
        if fired_s >= self._due_s:
            if self._due_s >= self._deadline_s:
                self.close(TimedOut(f"the deadline passed before {self._name} had answered"))
                return
            if not self._answer.status:
                self.close(TimedOut(f"{self._name} did not begin to answer in time"))
                return
            if self._answer.is_passed_on:
                self.close(
                    TimedOut(f"{self._name} sent nothing for {self._pause_s:g} seconds in the midst of its answer")
                )
                return
            self._due_s = self._deadline_s
        self._set_timer()

    def _end_exchange(self) -> asyncio.Future[WireResponse | Incoming] | None:
        waiter, self._waiter = self._waiter, None
        self._incoming = None
        if self._answer is not None:
            self._answer.clear()
            self._answer = None
        return waiter

    def _said_goodbye(self) -> bool:
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            # uvloop reports the end only after a close_notify; asyncio also without, but then the TLS
            # object still waits for more.
            return bool(tls.read(1) == b"")
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False
