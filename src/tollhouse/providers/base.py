"""What the rest of Tollhouse knows of a provider: a neutral request, a neutral answer, and how attempts fail.

ProviderError
├── NotSent         the provider cannot have received the call: nothing to pay, another attempt is safe
├── Refused         the provider answered with an error that it does not bill
│   ├── Rejected        … because of the request itself (its 4xx): no other attempt would fare better
│   └── Overloaded      … because of its own state (429, 5xx): another attempt may succeed
└── OutcomeUnknown  the call may have been received and billed: it stays counted at its ceiling
    └── TimedOut        … and a deadline ended the wait
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one attempt in disjoint classes: each token is in one of them, so that it is priced once."""

    input_tokens: int = 0
    """Input read in full: neither from a cache nor into one."""
    cached_input_tokens: int = 0
    """Input read from the provider's prompt cache."""
    cache_write_tokens: int = 0
    """Input written into the provider's prompt cache with its default lifetime (five minutes)."""
    cache_write_1h_tokens: int = 0
    """Input written into the provider's prompt cache for an hour."""
    output_tokens: int = 0
    """Output the caller sees."""
    reasoning_tokens: int = 0
    """Output the model spent on thinking."""

    @property
    def total_tokens(self) -> int:
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.output_tokens
            + self.reasoning_tokens
        )


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ProviderRequest(msgspec.Struct, frozen=True, gc=False):
    """A completion as every adapter understands it."""

    model: str
    """The model's name at the provider."""
    messages: tuple[Message, ...]
    """At least one; system turns may stand anywhere."""
    max_tokens: int
    """The most output tokens the provider may make, thinking included."""
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    response_schema: dict[str, Any] | None = None
    """A JSON Schema that the answer has to follow."""


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


FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "refusal", "other"]


class ProviderAnswer(msgspec.Struct, frozen=True, gc=False):
    """A completion as it came back."""

    content: str
    finish_reason: FinishReason
    usage: Usage | None
    """None when the provider reported none, or none that can be read; a reported zero is a zero."""
    provider_request_id: str | None = None


class Adapter(Protocol):
    """One vendor's wire format. Adapters are pure: they translate, and never touch the network."""

    def encode(self, request: ProviderRequest) -> WireRequest:
        """Translate a request; raises InvalidRequest for what the vendor's format cannot express."""

    def decode(self, response: WireResponse) -> ProviderAnswer:
        """Translate an answer; raises Rejected, Overloaded or OutcomeUnknown where it is none."""


class ProviderError(Exception):
    """An attempt that brought no answer. The message is fit for callers: it holds no key and no prompt."""


class NotSent(ProviderError):
    """The provider cannot have received the call."""


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
    """The call may have been received, and may be billed."""


class TimedOut(OutcomeUnknown):
    """A deadline passed after the call may have been received."""
