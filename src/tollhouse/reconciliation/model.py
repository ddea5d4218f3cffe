"""What a provider says it billed, what the ledger knows, and what becomes of the difference."""

from collections.abc import Callable
from typing import Literal

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.ledger.model import UsageSource
from tollhouse.pricing.model import Price
from tollhouse.providers.usage import Usage

CLASSES = Usage.__struct_fields__
"""The classes of usage, in the order in which they are reported."""

PriceOf = Callable[[str], Price | None]
"""Returns the price in force for a configured model, or None for a model without one."""

Outcome = Literal["agrees", "resolved", "differs", "skipped"]
"""``agrees``: both sides are equal and nothing is unknown. ``resolved``: what is unknown explains the difference.
``differs``: it does not, and nothing was changed. ``skipped``: calls of that time may still be under way."""


class UsageBucket(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider counted for one model in one span of time.

    Attributes:
        model: the provider's name for it.
        start_ms: milliseconds since the Unix epoch, included.
        end_ms: the same, excluded.
        requests: how many calls were billed; None where the provider does not say.
        usage: in disjoint classes.
        splits_reasoning: False: ``output_tokens`` holds the reasoning too, as most providers count.
        splits_media: False: input and output hold sound and pictures too.
        counts_searches: False: the provider does not say how often it searched.
    """

    model: str
    start_ms: int
    end_ms: int
    requests: int | None
    usage: Usage
    splits_reasoning: bool
    splits_media: bool = False
    counts_searches: bool = False

    def comparable(self, usage: Usage) -> Usage:
        """Return a usage as this bucket's provider counts: what it does not tell apart is one class."""
        changes: dict[str, int] = {}
        if not self.splits_media:
            changes |= {
                "input_tokens": usage.input_tokens + usage.audio_input_tokens + usage.image_input_tokens,
                "output_tokens": usage.output_tokens + usage.audio_output_tokens + usage.image_output_tokens,
                **dict.fromkeys(_MEDIA, 0),
            }
        if not self.splits_reasoning:
            output_tokens = changes.get("output_tokens", usage.output_tokens)
            changes |= {"output_tokens": output_tokens + usage.reasoning_tokens, "reasoning_tokens": 0}
        if not self.counts_searches:
            changes["web_searches"] = 0
        return msgspec.structs.replace(usage, **changes) if changes else usage


_MEDIA = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "image_output_tokens")


class LedgerUsage(msgspec.Struct, frozen=True):
    """What the ledger has as billed: rows that are settled, and adjustments.

    Attributes:
        requests: attempts that were billed for certain.
        sharing: attempts that were entered with a share of what the provider counted: some may not have been billed.
    """

    requests: int = 0
    sharing: int = 0
    usage: Usage = Usage()


class Resolution(msgspec.Struct, frozen=True):
    """How one attempt of unknown outcome is entered.

    Attributes:
        price_version: of the price that gave the cost; the attempt's own where it cost nothing.
        usage_source: ``reported`` when the provider's figures are this attempt's alone, ``estimated`` for a share of
            them, ``none`` when it was not billed.
    """

    reservation: Reservation
    usage: Usage
    usage_source: UsageSource
    cost_nano_usd: int
    price_version: str


class Match(msgspec.Struct, frozen=True):
    """One bucket beside the ledger.

    Attributes:
        unclaimed: the export less the ledger; negative where the ledger has more.
        unclaimed_requests: the same of calls, where of those that share as many were billed as the provider counted;
            None where it does not count them.
        unknown: how many attempts of unknown outcome the ledger has in it.
        reason: a sentence, for a bucket that differs or was skipped; else "".
    """

    bucket: UsageBucket
    ledger: LedgerUsage
    unclaimed: Usage
    unclaimed_requests: int | None
    unknown: int
    outcome: Outcome
    reason: str = ""
    resolutions: tuple[Resolution, ...] = ()


def combined(first: Usage, second: Usage, sign: int = 1) -> Usage:
    """Return the sum of two usages by class; with ``sign`` -1 their difference."""
    return Usage(*(getattr(first, name) + sign * getattr(second, name) for name in CLASSES))
