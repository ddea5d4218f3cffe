"""What the rest of Tollhouse knows of a provider: a neutral request, a neutral answer, and how attempts fail.

ProviderError
├── NotSent         the provider cannot have received the call: nothing to pay, another attempt is safe
│   └── Unreachable     … because no connection to it could be made or used
├── Refused         the provider answered with an error that it does not bill
│   ├── Rejected        … because of the request itself (its 4xx): no other attempt would fare better
│   └── Overloaded      … because of its own state (429, 5xx): another attempt may succeed
└── OutcomeUnknown  the call may have been received and billed: it stays counted at its ceiling
    └── TimedOut        … and a deadline ended the wait
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest, StreamEvent
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage


class WireRequest(msgspec.Struct, frozen=True, gc=False):
    """What goes over the wire: a POST of ``body`` to the base URL's path plus ``path``."""

    path: str
    headers: tuple[tuple[str, str], ...]
    """Authentication and vendor headers; never Host, Content-Length or Content-Type, which the transport sets."""
    body: bytes


class WireResponse(msgspec.Struct, frozen=True, gc=False):
    """A provider's whole answer, decompressed."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


ApiName = Literal["chat", "responses", "messages", "gemini", "embeddings", "gemini-embeddings"]
"""The APIs that existing clients speak: OpenAI's chat completions, responses and embeddings, Anthropic's messages,
Google's generateContent and its embedContent."""


class StreamReader(Protocol):
    """Reads one streamed answer, event by event, and does no I/O.

    Attributes:
        usage: what has been reported so far, in classes; None as long as nothing was.
        is_behind: the model has made more since, as far as can be told; that of a whole stream seldom is.
        thinks_unseen: the model may have thought, and is billed for more than the stream shows of it.
        provider_request_id: the provider's id of the call, once it is known.
    """

    usage: Usage | None
    is_behind: bool
    thinks_unseen: bool
    provider_request_id: str | None

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        """Return what an event says; none for what is of no concern to anybody but the vendor's own client.

        Raises:
            Overloaded, Rejected: the event is an error, and nothing that may be billed came before it.
            OutcomeUnknown: it is an error after that, or it cannot be read.
        """


class Dialect(Protocol):
    """One API as one provider serves it: what is relayed to it in its own format, and how its answers are read."""

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:
        """Return a client's request for this provider, as it came but for the model's name.

        Args:
            body: the client's JSON, limits and ``stream`` included.
            model: its name at the provider.
            headers: the client's, names in lower case; those that the vendor's own client sends are passed on.
        """

    def decode(self, response: WireResponse) -> ProviderAnswer:
        """Translate a whole answer; raises Rejected, Overloaded or OutcomeUnknown where it is none."""

    def stream_reader(self) -> StreamReader:
        """Return what reads one streamed answer; an answer of another status than 200 goes to ``decode``."""


class Adapter(Dialect, Protocol):
    """One vendor's wire format. Adapters are pure: they translate, and never touch the network.

    As a dialect, an adapter is that of the vendor's main API, which ``encode`` translates into.
    """

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What can be asked of the vendor in any client's format.

        Of ``streaming``, ``tools``, ``images``, ``documents``, ``audio``, ``json_schema``, ``json``, ``reasoning``.
        """

    def encode(self, request: ProviderRequest) -> WireRequest:
        """Translate a request; raises InvalidRequest, by name, for what the vendor's format cannot express."""

    def dialect(self, api: ApiName) -> Dialect | None:
        """Return how this provider serves an API itself; None where it does not, and calls are translated."""


@runtime_checkable
class CountsTokens(Dialect, Protocol):
    """A provider that counts a prompt's tokens without charge."""

    def count_tokens(self, body: Mapping[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest:
        """Return a client's request to count a prompt's tokens, as it came but for the model's name."""


@runtime_checkable
class SearchesUnasked(Protocol):
    """A provider of models that use its search tool without being offered it."""

    def own_searches(self, model: str) -> int:
        """Return how often a model searches in every call; 0 for one that has to be offered the tool."""


class ProviderError(Exception):
    """An attempt that brought no answer. The message is fit for callers: it holds no key and no prompt."""


class NotSent(ProviderError):
    """The provider cannot have received the call."""


class Unreachable(NotSent):
    """No connection to the provider could be made, or it closed the one there was before anything was sent."""


class Refused(ProviderError):
    """The provider answered with an error, which it does not bill."""

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Rejected(Refused):
    """The provider refused the request itself."""


class Overloaded(Refused):
    """The provider cannot take the call now."""


class OutcomeUnknown(ProviderError):
    """The call may have been received, and may be billed.

    Attributes:
        is_providers: the provider brought it about; otherwise it was given up here.
    """

    is_providers: ClassVar[bool] = True


class TimedOut(OutcomeUnknown):
    """A deadline passed after the call may have been received."""
