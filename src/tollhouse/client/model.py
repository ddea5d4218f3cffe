"""What comes back: completions, the events of a stream, usage. Amounts are exact; token classes are disjoint.

Answers of later versions of Tollhouse may hold more than is named here; that is passed over.
"""

from decimal import Decimal
from typing import Literal

import msgspec

GroupBy = Literal["user", "feature", "model", "provider", "service", "day"]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """A call's tokens, each in one class; in a stream it comes ahead of the completion."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0


class Completion(Tokens, frozen=True, kw_only=True):
    """A model's answer, and what it cost.

    Attributes:
        cost_usd: exact, to the nano-USD.
        request_id: names the call in Tollhouse's ledger.
        finish_reason: ``stop``, ``length``, ``content_filter``, ``tool_calls``, ``refusal`` or ``other``.
        usage_source: ``reported`` by the provider, or ``estimated``.
        latency_ms: the provider's share of the time.
        idempotency_key: the key under which the call was sent.
        replayed: it is the first answer once more, and cost nothing this time.
    """

    content: str
    cost_usd: Decimal
    request_id: str
    model: str = ""
    provider: str = ""
    finish_reason: str = "other"
    fallback_used: bool = False
    usage_source: str = "reported"
    latency_ms: int = 0
    idempotency_key: str = ""
    replayed: bool = False


class Delta(msgspec.Struct, frozen=True):
    """A piece of a streamed answer's text."""

    content: str


StreamEvent = Delta | Tokens | Completion
"""In their order: any number of deltas, the tokens, and the completion with the whole text."""


class UsageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Calls, tokens and their cost.

    ``unknown_calls`` are those whose outcome is not known yet, and ``unknown_usd`` the ceilings held for them; they
    are in none of the other figures.
    """

    calls: int
    tokens: int
    cost_usd: Decimal
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    media_tokens: int = 0
    unknown_calls: int = 0
    unknown_usd: Decimal = Decimal(0)


class Usage(UsageFigures, frozen=True, kw_only=True):
    """A tenant's usage of a month (UTC, ``YYYY-MM``) as one total."""

    period: str
    tenant_id: int | str


class UsageGroup(UsageFigures, frozen=True, kw_only=True):
    """The usage of one group.

    Attributes:
        group: which one: a user's id, a feature's slug, a model, a provider, a service, or a day as ``YYYY-MM-DD``;
            None are the calls that named no user.
    """

    group: int | str | None


class GroupedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's usage of a month in groups."""

    period: str
    tenant_id: int | str
    group_by: GroupBy
    groups: list[UsageGroup]


_LISTS: dict[GroupBy, tuple[str, str]] = {
    "user": ("users", "user_id"),
    "feature": ("features", "feature_slug"),
    "model": ("models", "model"),
    "provider": ("providers", "provider"),
    "service": ("services", "service"),
    "day": ("days", "day"),
}
_decode_completion = msgspec.json.Decoder(Completion).decode
_decode_usage = msgspec.json.Decoder(Usage).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_groups = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def read_completion(body: bytes, idempotency_key: str, *, replayed: bool) -> Completion:
    """Read an answer, and add how the call was sent; raises msgspec.DecodeError or UnicodeDecodeError."""
    told = _decode_completion(body)
    return msgspec.structs.replace(told, idempotency_key=idempotency_key, replayed=replayed)


def read_usage(body: bytes) -> Usage:
    """Read a total; raises msgspec.DecodeError or UnicodeDecodeError."""
    return _decode_usage(body)


def read_grouped_usage(body: bytes, group_by: GroupBy) -> GroupedUsage:
    """Read groups: the list and the field in it are named after what was grouped by; raises as ``read_usage``."""
    name, field = _LISTS[group_by]
    told = _decode_object(body)
    if not {name, "period", "tenant_id"} <= told.keys():
        raise msgspec.ValidationError(f"there is no list of {name}")
    groups = []
    for group in _decode_groups(told[name]):
        group["group"] = group.pop(field, msgspec.Raw(b"null"))
        groups.append(msgspec.json.decode(msgspec.json.encode(group), type=UsageGroup))
    return GroupedUsage(
        period=msgspec.json.decode(told["period"], type=str),
        tenant_id=msgspec.json.decode(told["tenant_id"], type=int | str),
        group_by=group_by,
        groups=groups,
    )
