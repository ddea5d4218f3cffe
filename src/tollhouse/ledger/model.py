"""Entries of the ledger, and the operations that make them."""

import hashlib
from collections.abc import Callable
from operator import attrgetter
from typing import Literal

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.idempotency.model import Claim, FreeClaim
from tollhouse.providers.usage import Usage

GENESIS_HASH = "0" * 64
"""What the first entry of a tenant's chain follows."""

Status = Literal["settled", "unknown", "adjustment"]
UsageSource = Literal["reported", "estimated", "none"]

OTHER_CLASSES = (
    "audio_input_tokens",
    "image_input_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "web_searches",
)
"""The classes of usage that few calls have: they share the column ``other_usage``."""

_other_of: Callable[[Usage], tuple[int, ...]] = attrgetter(*OTHER_CLASSES)


def other_usage(usage: Usage) -> str:
    """Return those of ``OTHER_CLASSES`` that are not 0 as a compact JSON object; "" for none."""
    counts = _other_of(usage)
    if not any(counts):
        return ""
    there = {name: count for name, count in zip(OTHER_CLASSES, counts, strict=True) if count}
    return msgspec.json.encode(there).decode()


def other_counts(text: str) -> dict[str, int]:
    """Return what a row's ``other_usage`` says, by class."""
    return msgspec.json.decode(text, type=dict[str, int]) if text else {}


class LedgerEntry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A row of ``ai_usage_log`` but for its id and its own hash, in the order that is hashed.

    An ``other_usage`` of "" is not hashed, so that rows without any have the hash they had before there was the column.
    """

    request_id: str
    attempt: int
    tenant_id: str
    user_id: str
    feature_slug: str
    service: str
    key_id: str
    model: str
    provider: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_nano_usd: int
    price_version: str
    status: Status
    usage_source: UsageSource
    finish_reason: str
    latency_ms: int
    billing_period: str
    admitted_at: str
    created_at: str
    other_usage: str
    prev_hash: str

    def hashed(self) -> bytes:
        """Return the entry's values as a compact JSON array in UTF-8, the previous row's hash last."""
        values = msgspec.json.encode(self)
        if self.other_usage:
            return values
        # The last empty text that has a value after it: within a text, a quote never follows another.
        before, _, after = values.rpartition(b'"",')
        return before + after

    def row_hash(self) -> str:
        """SHA-256, in hex, of what is hashed."""
        return hashlib.sha256(self.hashed()).hexdigest()


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """The end of an attempt that was, or may have been, billed.

    Attributes:
        cost_nano_usd: what is posted; for an unknown outcome the ceiling, which stays reserved instead.
        latency_ms: from admission to the provider's whole answer.
        created_at: ISO 8601 in UTC.
        claim: the idempotency key's claim, if the call has one.
        sealed_answer: the answer to keep for it; None for an unknown outcome, whose claim is marked as lost.
    """

    reservation: Reservation
    status: Status
    usage: Usage
    usage_source: UsageSource
    cost_nano_usd: int
    finish_reason: str
    latency_ms: int
    created_at: str
    claim: Claim | None = None
    sealed_answer: bytes | None = None

    def entry(self, prev_hash: str) -> LedgerEntry:
        """Return the row this settlement writes after the row with the given hash."""
        reservation, usage = self.reservation, self.usage
        return LedgerEntry(
            reservation.request_id,
            reservation.attempt,
            reservation.tenant_id,
            reservation.user_id,
            reservation.feature_slug,
            reservation.service,
            reservation.key_id,
            reservation.model,
            reservation.provider,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.total_tokens,
            self.cost_nano_usd,
            reservation.price_version,
            self.status,
            self.usage_source,
            self.finish_reason,
            self.latency_ms,
            reservation.billing_period,
            reservation.created_at,
            self.created_at,
            other_usage(usage),
            prev_hash,
        )


class Release(msgspec.Struct, frozen=True, gc=False):
    """The end of an attempt that cannot be billed: its reservation is given back, and nothing is entered."""

    reservation: Reservation


Ending = Settlement | Release | FreeClaim
"""What ends something that an admission began."""
