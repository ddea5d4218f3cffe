"""The public form of a completion call and of its answer."""

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollhouse.kit.validation import OutsideId

MAX_STOP_SEQUENCES = 16


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class CompleteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /ai/complete``.

    Either ``user_message`` or ``messages`` is given. Unknown fields are refused.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256, description="the name of a configured model, or an alias")]
    tenant_id: Annotated[OutsideId | None, Meta(description="who pays; by default the key's only tenant")] = None
    user_id: Annotated[OutsideId | None, Meta(description="who asked")] = None
    feature_slug: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)] | None,
        Meta(description="what it is for; by default the key's own feature"),
    ] = None
    system_prompt: Annotated[str | None, Meta(description="instructions ahead of the question")] = None
    user_message: Annotated[str | None, Meta(description="the question")] = None
    messages: Annotated[
        Annotated[list[Turn], Meta(min_length=1, max_length=10_000)] | None,
        Meta(description="a conversation, in place of the question"),
    ] = None
    max_tokens: Annotated[
        int, Meta(ge=1, le=10_000_000, description="the most the answer may have; what it can cost is reserved")
    ] = 1024
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None, Meta(description="by default the provider's own")
    ] = None
    stop: Annotated[
        str | Annotated[list[str], Meta(max_length=MAX_STOP_SEQUENCES)] | None,
        Meta(description="sequences that end the answer"),
    ] = None
    response_schema: Annotated[
        dict[str, Any] | None, Meta(description="a JSON Schema that the answer is to have the form of")
    ] = None
    stream: Annotated[bool, Meta(description="the answer in events")] = False
    timeout_s: Annotated[
        Annotated[float, Meta(gt=0, le=3600)] | None,
        Meta(description="the call's deadline over all attempts; of a stream, until its first token"),
    ] = None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The answer to a completion call. Token classes are disjoint: each token is in one of them."""

    content: str
    input_tokens: int
    output_tokens: int
    cost_usd: Annotated[Decimal, Meta(description="exact, to the nano-USD")]
    request_id: Annotated[str, Meta(description="names the call in the ledger")]
    model: Annotated[str, Meta(description="the model that answered")]
    provider: str
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    total_tokens: Annotated[int, Meta(description="the sum of the classes")]
    finish_reason: Annotated[str, Meta(description="stop, length, content_filter, tool_calls, refusal or other")]
    fallback_used: bool
    usage_source: Annotated[str, Meta(description="reported by the provider, or estimated")]
    latency_ms: Annotated[int, Meta(description="the provider's share of the time")]


encode = msgspec.json.Encoder(decimal_format="number").encode
"""JSON with exact amounts: a Decimal becomes a JSON number, digit for digit."""
