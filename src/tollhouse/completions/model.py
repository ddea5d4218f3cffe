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
    """The body of ``POST /ai/complete``."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    tenant_id: OutsideId | None = None
    user_id: OutsideId | None = None
    feature_slug: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    system_prompt: str | None = None
    user_message: str | None = None
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=10_000)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] = 1024
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOP_SEQUENCES)] | None = None
    response_schema: dict[str, Any] | None = None
    stream: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] | None = None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The answer to a completion call. Token classes are disjoint: each token is in one of them."""

    content: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    request_id: str
    model: str
    provider: str
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    total_tokens: int
    finish_reason: str
    fallback_used: bool
    usage_source: str
    latency_ms: int


encode = msgspec.json.Encoder(decimal_format="number").encode
"""JSON with exact amounts: a Decimal becomes a JSON number, digit for digit."""
