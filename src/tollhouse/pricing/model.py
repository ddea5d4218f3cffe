"""Prices, and the two sums the budget rests on: what a call cost, and the most it can cost.

Rates are integers in nano-USD per million tokens (``_nano_usd_per_mtok``), so that the finest prices in use
stay exact: $0.0375 per million tokens is 37_500_000.
"""

import hashlib
from functools import cached_property
from itertools import pairwise

import msgspec

from tollhouse.providers.base import Usage

_TOKENS_PER_MTOK = 1_000_000

VERSION_MAX_LENGTH = 40
"""Characters a price's version takes at most: it is written on every row of the ledger."""

_DIGEST_LENGTH = 12
_SOURCE_MAX_LENGTH = VERSION_MAX_LENGTH - _DIGEST_LENGTH - 1


# The struct keeps a __dict__ for its cached properties, which are no part of its value or its JSON.
class Rates(msgspec.Struct, frozen=True, dict=True):
    """What each token class of ``Usage`` costs, in nano-USD per million tokens; never negative."""

    input_nano_usd_per_mtok: int
    cached_input_nano_usd_per_mtok: int
    cache_write_nano_usd_per_mtok: int
    cache_write_1h_nano_usd_per_mtok: int
    output_nano_usd_per_mtok: int
    reasoning_nano_usd_per_mtok: int

    def __post_init__(self) -> None:
        # A negative rate would let a call cost more than its ceiling: the ceiling assumes that fewer tokens
        # never cost more.
        for name, rate in msgspec.structs.asdict(self).items():
            if rate < 0:
                raise ValueError(f"{name} is {rate}: a rate cannot be negative")

    @cached_property
    def highest_input_nano_usd_per_mtok(self) -> int:
        """The dearest way to spend one input token."""
        return max(
            self.input_nano_usd_per_mtok,
            self.cached_input_nano_usd_per_mtok,
            self.cache_write_nano_usd_per_mtok,
            self.cache_write_1h_nano_usd_per_mtok,
        )

    @cached_property
    def highest_output_nano_usd_per_mtok(self) -> int:
        """The dearest way to spend one output token."""
        return max(self.output_nano_usd_per_mtok, self.reasoning_nano_usd_per_mtok)


class Tier(msgspec.Struct, frozen=True):
    """The rates of long prompts: they hold for all tokens of a call whose input is above the threshold."""

    above_input_tokens: int
    """Input tokens of all classes together; a call with exactly so many is still below the tier."""
    rates: Rates


class Price(msgspec.Struct, frozen=True):
    """What calls of one model cost."""

    version: str
    """Where the price is from and a digest of its rates: equal versions mean equal rates, for good."""
    base: Rates
    """The rates of calls that are above no tier's threshold."""
    tiers: tuple[Tier, ...] = ()
    """By rising threshold; the last one that a call is above decides."""
    request_nano_usd: int = 0
    """What each call costs besides its tokens."""
    effective_from_ms: int = 0
    """The instant from which the price holds (milliseconds since the Unix epoch); 0: it holds already."""

    def __post_init__(self) -> None:
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if any(low >= high for low, high in pairwise([-1, *thresholds])):
            raise ValueError(f"tiers need rising thresholds from 0 up, not {thresholds}")
        if self.request_nano_usd < 0:
            raise ValueError(f"request_nano_usd is {self.request_nano_usd}: a price cannot be negative")
        if not 0 < len(self.version) <= VERSION_MAX_LENGTH:
            raise ValueError(f"a price's version has 1 to {VERSION_MAX_LENGTH} characters, not {self.version!r}")

    @classmethod
    def of(
        cls,
        source: str,
        base: Rates,
        tiers: tuple[Tier, ...] = (),
        *,
        request_nano_usd: int = 0,
        effective_from_ms: int = 0,
    ) -> "Price":
        """Return a price whose version names its source (its first 27 characters) and a digest of its rates.

        Raises:
            ValueError: the thresholds do not rise, or the price of a request is negative.
        """
        content = msgspec.json.encode((base, tiers, request_nano_usd))
        digest = hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]
        return cls(
            version=f"{source[:_SOURCE_MAX_LENGTH]} {digest}",
            base=base,
            tiers=tiers,
            request_nano_usd=request_nano_usd,
            effective_from_ms=effective_from_ms,
        )


def cost_nano_usd(price: Price, usage: Usage) -> int:
    """Return what a call cost, rounded up once to a whole nano-USD.

    The tier is chosen by the input tokens of all classes together, and applies to all tokens of the call.
    """
    rates = price.base
    if price.tiers:
        input_tokens = (
            usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens
        )
        for tier in price.tiers:
            if input_tokens <= tier.above_input_tokens:
                break
            rates = tier.rates
    tokens_times_rates = (
        usage.input_tokens * rates.input_nano_usd_per_mtok
        + usage.cached_input_tokens * rates.cached_input_nano_usd_per_mtok
        + usage.cache_write_tokens * rates.cache_write_nano_usd_per_mtok
        + usage.cache_write_1h_tokens * rates.cache_write_1h_nano_usd_per_mtok
        + usage.output_tokens * rates.output_nano_usd_per_mtok
        + usage.reasoning_tokens * rates.reasoning_nano_usd_per_mtok
    )
    return price.request_nano_usd - (-tokens_times_rates // _TOKENS_PER_MTOK)


def ceiling_nano_usd(price: Price, *, max_input_tokens: int, max_output_tokens: int) -> int:
    """Return an upper bound on what a call can cost.

    Whatever its usage, a call with at most ``max_input_tokens`` of input (all classes together) and at most
    ``max_output_tokens`` of output (reasoning included) costs no more than this at the same price.
    """
    rates = price.base
    tokens_times_rates = (
        max_input_tokens * rates.highest_input_nano_usd_per_mtok
        + max_output_tokens * rates.highest_output_nano_usd_per_mtok
    )
    # Each tier within reach is tried, as the dearest need not be the last.
    for tier in price.tiers:
        if max_input_tokens <= tier.above_input_tokens:
            break
        rates = tier.rates
        tokens_times_rates = max(
            tokens_times_rates,
            max_input_tokens * rates.highest_input_nano_usd_per_mtok
            + max_output_tokens * rates.highest_output_nano_usd_per_mtok,
        )
    return price.request_nano_usd - (-tokens_times_rates // _TOKENS_PER_MTOK)
