"""A streamed answer as it comes, for both clients: what has come of it, and how it ended."""

from collections import deque
from collections.abc import Callable

from tollhouse.client.answers import is_replayed
from tollhouse.client.errors import ApiError, ConnectionLost, StreamInterrupted, TollhouseError, UnexpectedAnswer
from tollhouse.client.events import EventReader
from tollhouse.client.model import Completion, StreamEvent
from tollhouse.client.request import Request
from tollhouse.client.settings import Settings
from tollhouse.client.wire import Head


class Incoming:
    """What has come of a streamed answer.

    Attributes:
        is_over: nothing more comes.

    Raises:
        UnexpectedAnswer: the answer has no events.
    """

    def __init__(self, request: Request, head: Head, settings: Settings) -> None:
        kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise UnexpectedAnswer(
                "what answered sent no events; check the URL, and the gateways on the way", status=head.status
            )
        self.is_over = False
        self._idempotency_key = request.idempotency_key
        self._request_id = head.headers.get("x-request-id")
        self._settings = settings
        self._reader = EventReader(
            request.idempotency_key or "", replayed=is_replayed(head), max_event_bytes=settings.max_answer_bytes
        )
        self._events: deque[StreamEvent] = deque()
        self._failure: TollhouseError | None = None
        self._ends_at_s: float | None = None

    @property
    def completion(self) -> Completion | None:
        return self._reader.completion

    @property
    def has_begun(self) -> bool:
        """Whether the first event has come, so that the call is not tried again."""
        return bool(self._events) or self.is_over

    def begin(self) -> None:
        """Take it that an event has come; raises what came in its place. From now on, silence has a limit."""
        if not self._events:
            failure, self._failure = self._failure, None
            raise failure or ConnectionLost("the stream ended before its first event", request_id=self._request_id)
        self._ends_at_s = self._settings.clock() + self._settings.stream_timeout_s

    def patience(self) -> Callable[[], float]:
        """Return what tells for how long the next bytes are waited for."""
        assert self._ends_at_s is not None, "begin() has set it"
        clock = self._settings.clock
        until_s = min(self._ends_at_s, clock() + self._settings.stream_pause_timeout_s)
        return lambda: until_s - clock()

    def take(self, data: bytes) -> None:
        """Take what came; nothing is the end. Raises TollhouseError for what an event tells of, or cannot."""
        if data:
            self._events.extend(self._reader.feed(data))
            return
        self.is_over = True
        if self.completion is None:
            raise ConnectionLost("it ended early")

    def fail(self, error: TollhouseError) -> None:
        """Take it that nothing more comes. What has come is told of first."""
        self.is_over = True
        if self.completion is None:
            self._failure = error

    def next_event(self) -> StreamEvent | None:
        """Return the next event that has come, if any.

        Raises:
            ApiError: an event told of an error.
            StreamInterrupted: it broke off.
        """
        if self._events:
            return self._events.popleft()
        failure, self._failure = self._failure, None
        if failure is None:
            return None
        if isinstance(failure, ApiError):
            failure.idempotency_key = self._idempotency_key
            raise failure
        raise StreamInterrupted(
            f"the stream broke off before the answer was whole: {failure.message}",
            request_id=self._request_id,
            idempotency_key=self._idempotency_key,
        ) from failure
