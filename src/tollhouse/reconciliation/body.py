"""What administrators send to reconcile, and what they see of it."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from tollhouse.errors import InvalidRequest
from tollhouse.kit.clock import epoch_ms, utc_text
from tollhouse.kit.money import usd
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import CLASSES, Match, Outcome, UsageBucket
from tollhouse.reconciliation.service import Reconciled

MAX_BUCKETS = 1000
"""Buckets of one request; an export with more is sent in parts."""

_Count = Annotated[int, Meta(ge=0, le=10**15)]
_ZonedTime = Annotated[datetime, Meta(tz=True)]


class SentBucket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider counted for one of its models from ``start`` until before ``end``.

    Token classes are disjoint. ``requests`` null: it does not count calls. ``splits_reasoning`` false: its output
    includes reasoning. ``splits_media`` false: its input and output include sound and pictures. ``counts_searches``
    false: it does not count web searches.
    """

    model: Annotated[str, Meta(min_length=1, max_length=128)]
    start: _ZonedTime
    end: _ZonedTime
    requests: _Count | None = None
    input_tokens: _Count = 0
    cached_input_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    cache_write_1h_tokens: _Count = 0
    output_tokens: _Count = 0
    reasoning_tokens: _Count = 0
    audio_input_tokens: _Count = 0
    image_input_tokens: _Count = 0
    audio_output_tokens: _Count = 0
    image_output_tokens: _Count = 0
    web_searches: _Count = 0
    splits_reasoning: bool = True
    splits_media: bool = False
    counts_searches: bool = False

    @classmethod
    def of(cls, bucket: UsageBucket) -> "SentBucket":
        return cls(
            model=bucket.model,
            start=datetime.fromisoformat(utc_text(bucket.start_ms)),
            end=datetime.fromisoformat(utc_text(bucket.end_ms)),
            requests=bucket.requests,
            splits_reasoning=bucket.splits_reasoning,
            splits_media=bucket.splits_media,
            counts_searches=bucket.counts_searches,
            **msgspec.structs.asdict(bucket.usage),
        )

    def bucket(self) -> UsageBucket:
        """Return it as it is matched; raises InvalidRequest when it ends before it begins."""
        if self.start >= self.end:
            raise InvalidRequest("buckets: expected each end after its start")
        bucket = UsageBucket(
            model=self.model,
            start_ms=epoch_ms(self.start),
            end_ms=epoch_ms(self.end),
            requests=self.requests,
            usage=Usage(*(getattr(self, name) for name in CLASSES)),
            splits_reasoning=self.splits_reasoning,
            splits_media=self.splits_media,
            counts_searches=self.counts_searches,
        )
        return msgspec.structs.replace(bucket, usage=bucket.comparable(bucket.usage))


class ReconciliationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's own usage, to be matched with the ledger. ``dry_run`` true changes nothing."""

    provider: str
    buckets: Annotated[list[SentBucket], Meta(min_length=1, max_length=MAX_BUCKETS)]
    dry_run: bool = False


class ClassMatch(msgspec.Struct, frozen=True):
    """One class of usage, or the calls, of a bucket. ``unclaimed`` is the export less the ledger."""

    name: str
    export: int
    ledger: int
    unclaimed: int
    resolved: int


class BucketMatch(msgspec.Struct, frozen=True):
    """A bucket beside the ledger.

    ``agrees``: both are equal. ``resolved``: calls of unknown outcome were entered. ``differs``: they do not explain
    the difference, and nothing was changed. ``skipped``: its calls may not be over. Of the last two, ``reason`` says
    why.
    """

    model: str
    start: str
    end: str
    outcome: Outcome
    reason: str
    unknown_calls: int
    cost_usd: Decimal
    counts: list[ClassMatch]

    @classmethod
    def of(cls, found: Match) -> "BucketMatch":
        return cls(
            model=found.bucket.model,
            start=utc_text(found.bucket.start_ms),
            end=utc_text(found.bucket.end_ms),
            outcome=found.outcome,
            reason=found.reason,
            unknown_calls=found.unknown,
            cost_usd=usd(sum(each.cost_nano_usd for each in found.resolutions)),
            counts=[] if found.outcome == "skipped" else _counts(found),
        )


class ReconciliationReport(msgspec.Struct, frozen=True):
    """What a run found. ``taken`` calls were resolved by somebody else meanwhile, or refused by the ledger.

    Of a dry run, ``resolved`` and ``cost_usd`` are what would have been entered.
    """

    provider: str
    dry_run: bool
    resolved: int
    cost_usd: Decimal
    taken: int
    buckets: list[BucketMatch]

    @classmethod
    def of(cls, request: ReconciliationRequest, found: Reconciled) -> "ReconciliationReport":
        return cls(
            provider=request.provider,
            dry_run=request.dry_run,
            resolved=found.resolved,
            cost_usd=usd(found.cost_nano_usd),
            taken=found.taken,
            buckets=[BucketMatch.of(each) for each in found.matches],
        )


def _counts(found: Match) -> list[ClassMatch]:
    counts = []
    if found.bucket.requests is not None and found.unclaimed_requests is not None:
        was_billed = sum(each.usage != Usage() for each in found.resolutions)
        requests = (found.bucket.requests, found.ledger.requests, found.unclaimed_requests, was_billed)
        counts.append(ClassMatch("requests", *requests))
    for name in CLASSES:
        export, ledger, unclaimed = (
            getattr(usage, name) for usage in (found.bucket.usage, found.ledger.usage, found.unclaimed)
        )
        resolved = sum(getattr(each.usage, name) for each in found.resolutions)
        counts.append(ClassMatch(name, export, ledger, unclaimed, resolved))
    return counts
