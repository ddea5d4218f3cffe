"""Prices, and the two sums the budget rests on: what a call cost, and the most it can cost.

Rates are integers in nano-USD per million tokens (``_nano_usd_per_mtok``), so that the finest prices in use
stay exact: $0.0375 per million tokens is 37_500_000.
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec

from tollhouse.errors import ModelUnpriced
from tollhouse.providers.usage import Usage

_TOKENS_PER_MTOK = 1_000_000

VERSION_MAX_LENGTH = 40
"""Characters a price's version takes at most: it is written on every row of the ledger."""

UNPRICED_SEARCH_NANO_USD = 35_000_000
"""What a web search costs that was made although nobody knows its price: as much as any vendor's, $35 for 1,000."""

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
    audio_input_nano_usd_per_mtok: int
    image_input_nano_usd_per_mtok: int
    audio_output_nano_usd_per_mtok: int
    image_output_nano_usd_per_mtok: int

    def __post_init__(self) -> None:
        # A negative rate would let a call cost more than its ceiling: the ceiling assumes that fewer tokens
        # never cost more.
        for name, rate in msgspec.structs.asdict(self).items():
            if rate < 0:
                raise ValueError(f"{name} is {rate}: a rate cannot be negative")

    def highest_input_nano_usd_per_mtok(self, *, has_audio: bool, has_images: bool) -> int:
        """Return the dearest way to spend one input token: of sound or a picture too, where there may be some."""
        highest = self._highest_text_input_nano_usd_per_mtok
        if has_audio:
            highest = max(highest, self.audio_input_nano_usd_per_mtok)
        if has_images:
            highest = max(highest, self.image_input_nano_usd_per_mtok)
        return highest

    @cached_property
    def _highest_text_input_nano_usd_per_mtok(self) -> int:
        return max(
            self.input_nano_usd_per_mtok,
            self.cached_input_nano_usd_per_mtok,
            self.cache_write_nano_usd_per_mtok,
            self.cache_write_1h_nano_usd_per_mtok,
        )

    @cached_property
    def highest_output_nano_usd_per_mtok(self) -> int:
        """The dearest way to spend one output token, whatever a model makes unasked."""
        return max(
            self.output_nano_usd_per_mtok,
            self.reasoning_nano_usd_per_mtok,
            self.audio_output_nano_usd_per_mtok,
            self.image_output_nano_usd_per_mtok,
        )

    def digested(self) -> dict[str, int]:
        """Return what a price's version is made of: sound and pictures only where they cost other than text.

        So the versions of prices that have no such rates are those they had before there were any.
        """
        rates: dict[str, int] = msgspec.structs.asdict(self)
        for name, plain in _PLAIN_RATES.items():
            if rates[name] == rates[plain]:
                del rates[name]
        return rates


_PLAIN_RATES = {
    "audio_input_nano_usd_per_mtok": "input_nano_usd_per_mtok",
    "image_input_nano_usd_per_mtok": "input_nano_usd_per_mtok",
    "audio_output_nano_usd_per_mtok": "output_nano_usd_per_mtok",
    "image_output_nano_usd_per_mtok": "output_nano_usd_per_mtok",
}
"""What sound and pictures cost where they have no rate of their own."""


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
    search_nano_usd: int | None = None
    """What one use of the provider's own search tool costs; None where nobody knows: such calls are refused."""
    effective_from_ms: int = 0
    """The instant from which the price holds (milliseconds since the Unix epoch); 0: it holds already."""

    def __post_init__(self) -> None:
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if any(low >= high for low, high in pairwise([-1, *thresholds])):
            raise ValueError(f"tiers need rising thresholds from 0 up, not {thresholds}")
        if self.request_nano_usd < 0:
            raise ValueError(f"request_nano_usd is {self.request_nano_usd}: a price cannot be negative")
        if self.search_nano_usd is not None and self.search_nano_usd < 0:
            raise ValueError(f"search_nano_usd is {self.search_nano_usd}: a price cannot be negative")
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
        search_nano_usd: int | None = None,
        effective_from_ms: int = 0,
    ) -> "Price":
        """Return a price whose version names its source (its first 27 characters) and a digest of its rates.

        Raises:
            ValueError: the thresholds do not rise, or the price of a request or of a search is negative.
        """
        content: list[Any] = [base.digested(), _digested_tiers(tiers), request_nano_usd]
        if search_nano_usd is not None:
            content.append(search_nano_usd)
        digest = hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:_DIGEST_LENGTH]
        return cls(
            version=f"{source[:_SOURCE_MAX_LENGTH]} {digest}",
            base=base,
            tiers=tiers,
            request_nano_usd=request_nano_usd,
            search_nano_usd=search_nano_usd,
            effective_from_ms=effective_from_ms,
        )


def _digested_tiers(tiers: Iterable[Tier]) -> list[dict[str, Any]]:
    return [{"above_input_tokens": tier.above_input_tokens, "rates": tier.rates.digested()} for tier in tiers]


def cost_nano_usd(price: Price, usage: Usage) -> int:
    """Return what a call cost, rounded up once to a whole nano-USD.

    The tier is chosen by the input tokens of all classes together, and applies to all tokens of the call.
    """
    rates = price.base
    if price.tiers:
        input_tokens = usage.all_input_tokens
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
        + usage.audio_input_tokens * rates.audio_input_nano_usd_per_mtok
        + usage.image_input_tokens * rates.image_input_nano_usd_per_mtok
        + usage.audio_output_tokens * rates.audio_output_nano_usd_per_mtok
        + usage.image_output_tokens * rates.image_output_nano_usd_per_mtok
    )
    cost = price.request_nano_usd - (-tokens_times_rates // _TOKENS_PER_MTOK)
    if usage.web_searches:
        search = price.search_nano_usd
        cost += usage.web_searches * (UNPRICED_SEARCH_NANO_USD if search is None else search)
    return cost


def ceiling_nano_usd(
    price: Price,
    *,
    max_input_tokens: int,
    max_output_tokens: int,
    max_searches: int = 0,
    has_audio: bool = True,
    has_images: bool = True,
) -> int:
    """Return an upper bound on what a call can cost.

    Whatever its usage, a call with at most ``max_input_tokens`` of input (all classes together), at most
    ``max_output_tokens`` of output (reasoning included) and at most ``max_searches`` costs no more than this at the
    same price.

    Args:
        has_audio: its input may hold sound; False only for a call that is known to have none.
        has_images: the same of pictures.

    Raises:
        ModelUnpriced: the call may search, and nobody knows what a search costs.
    """
    other = price.request_nano_usd
    if max_searches:
        if price.search_nano_usd is None:
            raise ModelUnpriced(
                "The model, or one that may answer in its place, has no price for its provider's web searches, and a "
                "call that cannot be priced is refused. Give it one: price.search = 10.00 (USD for 1,000 searches)"
            )
        other += max_searches * price.search_nano_usd
    rates = price.base
    tokens_times_rates = (
        max_input_tokens * rates.highest_input_nano_usd_per_mtok(has_audio=has_audio, has_images=has_images)
        + max_output_tokens * rates.highest_output_nano_usd_per_mtok
    )
    # Each tier within reach is tried, as the dearest need not be the last.
    for tier in price.tiers:
        if max_input_tokens <= tier.above_input_tokens:
            break
        rates = tier.rates
        tokens_times_rates = max(
            tokens_times_rates,
            max_input_tokens * rates.highest_input_nano_usd_per_mtok(has_audio=has_audio, has_images=has_images)
            + max_output_tokens * rates.highest_output_nano_usd_per_mtok,
        )
    return other - (-tokens_times_rates // _TOKENS_PER_MTOK)
