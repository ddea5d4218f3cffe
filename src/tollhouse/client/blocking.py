"""The blocking client."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack, overload

from tollhouse import __version__
from tollhouse.client import answers
from tollhouse.client.attempts import Attempts
from tollhouse.client.breaker import CircuitBreaker, State
from tollhouse.client.errors import TollhouseError
from tollhouse.client.forking import renew_after_fork
from tollhouse.client.incoming import Incoming
from tollhouse.client.model import Completion, Delta, GroupBy, GroupedUsage, StreamEvent, Usage
from tollhouse.client.request import CallOptions, Request, Requests
from tollhouse.client.settings import ClientOptions, Settings, settings
from tollhouse.client.sockets import Connections, Left, Reply

T = TypeVar("T")

_LOG = logging.getLogger("tollhouse.client")


class Client:
    """Calls Tollhouse, and waits for its answers. Any number of threads may share one.

    Args:
        url: where Tollhouse is, such as ``http://tollhouse:8080``; by default ``TOLLHOUSE_URL`` of the environment.
        api_key: a service key; by default ``TOLLHOUSE_API_KEY``.
        sleep: pauses between two tries.
        options: see ``Settings``.

    Raises:
        ValueError: a setting is missing, or cannot be meant.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._settings = settings(url, api_key, options)
        self._requests = Requests(self._settings, __version__)
        self._breaker = CircuitBreaker(self._settings.breaker, self._settings.clock, self._settings.uniform)
        self._connections = Connections(self._settings)
        self._sleep = sleep
        renew_after_fork(self._breaker)

    def __repr__(self) -> str:
        return f"Client({self._settings.url!r})"

    @property
    def circuit(self) -> State:
        """The state of the circuit breaker."""
        return self._breaker.state

    def complete(self, **call: Unpack[CallOptions]) -> Completion:
        """Have a model answer.

        Args:
            call: ``model``, ``user_message`` and so on; see ``Call``.

        Raises:
            ApiError: Tollhouse refused, or could not answer.
            NoAnswer: no answer came.
            ValueError, TypeError: an argument cannot be meant; nothing was sent.
        """
        request = self._requests.completion(call, stream=False)

        def once(left: Left) -> Completion:
            with contextlib.closing(self._connections.open(request, left)) as reply:
                return answers.completion(request, reply.head, self._body(reply, left))

        return self._carry_out(request, once)

    @contextlib.contextmanager
    def stream(self, **call: Unpack[CallOptions]) -> Iterator["CompletionStream"]:
        """Have a model answer in events: ``with client.stream(…) as stream: for text in stream.text(): …``.

        The call is made when the block is entered, and may be tried again until its first event has come. A stream that
        is left before its end is paid for all the same. Arguments and errors are those of ``complete``.
        """
        request = self._requests.completion(call, stream=True)

        def once(left: Left) -> CompletionStream:
            reply = self._connections.open(request, left)
            try:
                if reply.head.status != answers.OK:
                    self._body(reply, left)
                stream = CompletionStream(request, reply, self._settings)
                stream.begin(left)
            except BaseException:
                reply.close()
                raise
            return stream

        with contextlib.closing(self._carry_out(request, once)) as stream:
            yield stream

    @overload
    def usage(
        self, tenant_id: int | str | None = None, *, period: str | None = None, group_by: None = None
    ) -> Usage: ...
    @overload
    def usage(
        self, tenant_id: int | str | None = None, *, period: str | None = None, group_by: GroupBy
    ) -> GroupedUsage: ...
    def usage(
        self, tenant_id: int | str | None = None, *, period: str | None = None, group_by: GroupBy | None = None
    ) -> Usage | GroupedUsage:
        """Return a tenant's usage of a month.

        Args:
            tenant_id: by default the client's, else the key's only one.
            period: a calendar month (UTC) as ``YYYY-MM``; by default the running one.
            group_by: without it, one total.

        Raises:
            TollhouseError: as ``complete``.
        """
        request = self._requests.usage(tenant_id, period, group_by)

        def once(left: Left) -> Usage | GroupedUsage:
            with contextlib.closing(self._connections.open(request, left)) as reply:
                return answers.usage(reply.head, self._body(reply, left), group_by)

        return self._carry_out(request, once)

    def close(self) -> None:
        """Close the connections; calls that are under way come to their end."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _body(self, reply: Reply, left: Left) -> bytes:
        """Return the body of an answer; raises the error that it tells of instead."""
        body = reply.read(left, self._settings.max_answer_bytes)
        refused = answers.refusal(reply.head, body)
        if refused is not None:
            raise refused
        return body

    def _carry_out(self, request: Request, once: Callable[[Left], T]) -> T:
        """Make a call, in as many tries as it may take."""
        attempts = Attempts(request, self._settings)
        try:
            while True:
                try:
                    with self._breaker.permit(counts_timeouts=attempts.has_full_time):
                        attempts.begin()
                        return once(attempts.left_s)
                except TollhouseError as error:
                    error.idempotency_key = request.idempotency_key
                    pause_s = attempts.pause_after_s(error)
                    if pause_s is None:
                        raise attempts.last or error  # noqa: B904 - most often it is the same
                    _LOG.info("tries again in %.2f s, after %s", pause_s, attempts.reason)
                self._sleep(pause_s)
        finally:
            # The error's traceback holds this frame: without its name for the error, both are freed at once, and the
            # prompt with them.
            del attempts


class CompletionStream:
    """A streamed answer: an iterator of its events.

    Attributes:
        completion: the whole answer, once its last event has come.
    """

    def __init__(self, request: Request, reply: Reply, settings: Settings) -> None:
        self._incoming = Incoming(request, reply.head, settings)
        self._reply = reply

    def begin(self, left: Left) -> None:
        """Wait for the first event; raises what comes in its place."""
        while not self._incoming.has_begun:
            self._receive(left)
        self._incoming.begin()

    @property
    def completion(self) -> Completion | None:
        return self._incoming.completion

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield the events; raises ApiError where one tells of an error, and StreamInterrupted where it breaks off."""
        while True:
            event = self._incoming.next_event()
            if event is not None:
                yield event
            elif self._incoming.is_over:
                return
            else:
                self._receive(self._incoming.patience())

    def text(self) -> Iterator[str]:
        """Yield the pieces of the text; raises as iterating does."""
        for event in self:
            if isinstance(event, Delta):
                yield event.content

    def read(self) -> Completion:
        """Read to the end, and return the whole answer; raises as iterating does."""
        for _ in self:
            pass
        assert self.completion is not None, "a stream that ends well ends with it"
        return self.completion

    def close(self) -> None:
        """Leave the stream. What the model goes on to say is paid for all the same."""
        self._reply.close()

    def _receive(self, left: Left) -> None:
        try:
            self._incoming.take(self._reply.part(left))
        except TollhouseError as error:
            self._incoming.fail(error)
