"""What is asked of a model, in whichever form it came: how it is put to a provider, and how its answer is told."""

from typing import Protocol

import msgspec

from tollhouse.completions.models import Candidate
from tollhouse.completions.weight import Weight
from tollhouse.completions.wire.base import StreamWriter
from tollhouse.errors import TollhouseError
from tollhouse.ledger.model import UsageSource
from tollhouse.providers.base import Dialect, WireRequest
from tollhouse.providers.conversation import ProviderAnswer
from tollhouse.providers.usage import Usage


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A question, ready to be sent to one candidate.

    Attributes:
        dialect: reads what comes back.
        is_relayed: it goes out in the format it came in, and so the answer's bytes are the caller's.
    """

    wire: WireRequest
    dialect: Dialect
    is_relayed: bool = False


class Told(msgspec.Struct, frozen=True, gc=False):
    """An answer that is settled, with all that a caller may be told of it.

    Attributes:
        raw: the provider's own bytes, where they are relayed.
        created_s: Unix time.
    """

    answer: ProviderAnswer
    usage: Usage
    usage_source: UsageSource
    cost_nano_usd: int
    request_id: str
    model: str
    provider: str
    fallback_used: bool
    latency_ms: int
    created_s: int
    raw: bytes | None = None


class Question(Protocol):
    """One question. Implementations are pure.

    Attributes:
        model: the model's name as the caller has it.
        max_tokens: the most output tokens of all its answers together.
        answers: how many answers it may bring.
        weight: what it can take in, at most.
        prompt_bytes: what it takes in as text, for an estimate where a provider reports nothing.
        is_stream: the answer is wanted in events.
        takes_comments: a stream of it may hold comments, which keep a waiting connection alive.
    """

    @property
    def model(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def answers(self) -> int: ...
    @property
    def weight(self) -> Weight: ...
    @property
    def prompt_bytes(self) -> int: ...
    @property
    def is_stream(self) -> bool: ...
    @property
    def takes_comments(self) -> bool: ...

    def hides(self, data: bytes) -> bool:
        """Whether an event of a relayed stream, by its data, is not for the caller, who did not ask for it."""

    def prepare(self, candidate: Candidate) -> Prepared:
        """Put it into a candidate's format; raises InvalidRequest for what that format cannot express."""

    def body(self, told: Told) -> bytes:
        """Write a whole answer."""

    def writer(self, request_id: str, created_s: int) -> StreamWriter:
        """Return what writes a streamed answer that is translated."""

    def last(self, writer: StreamWriter, told: Told) -> bytes:
        """Return what comes last in a stream that is translated."""

    def failure(self, error: TollhouseError, request_id: str) -> bytes:
        """Return the event that ends a stream which fails after it began."""
