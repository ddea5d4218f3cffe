"""The configured models, each with the candidates that may answer for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from tollhouse.errors import ModelUnknown
from tollhouse.pricing.book import PriceBook
from tollhouse.pricing.model import Price
from tollhouse.providers.base import Adapter, WireRequest, WireResponse
from tollhouse.providers.incoming import Incoming
from tollhouse.resilience.api_keys import KeyRotation
from tollhouse.resilience.breaker import CircuitBreaker
from tollhouse.resilience.bulkhead import Bulkhead
from tollhouse.resilience.latency import LatencyQuantile


class Transport(Protocol):
    """Carries a request to one provider; implemented by ``providers.transport.Upstream``."""

    async def post(
        self,
        wire: WireRequest,
        *,
        deadline_s: float,
        first_byte_timeout_s: float | None,
        may_send: Callable[[], bool] | None,
    ) -> WireResponse:
        """Send and receive until a deadline of the running loop's clock, or until the answer has not begun in time."""

    async def open(
        self,
        wire: WireRequest,
        *,
        begin_by_s: float,
        deadline_s: float,
        first_byte_timeout_s: float | None,
        pause_s: float,
        may_send: Callable[[], bool] | None,
    ) -> WireResponse | Incoming:
        """Send, and receive a 200 piece by piece."""


class Candidate(msgspec.Struct, frozen=True):
    """One model at one provider."""

    model: str
    """The name it is configured under."""
    provider: str
    upstream_model: str
    """Its name at the provider."""
    adapter: Adapter
    transport: Transport
    timeout_s: float
    """The longest that one attempt may take."""
    max_output_tokens: int | None
    input_overhead_tokens: int = 64
    """The most input tokens that the provider adds to a call by itself."""
    context_window: int | None = None
    """The most tokens of input and output together that the model takes; None where nobody knows."""
    max_image_tokens: int = 6_000
    """The most tokens that one picture can count as."""
    own_searches: int = 0
    """How often the model searches in a call that does not ask it to."""
    first_byte_timeout_s: float | None = None
    """The longest that an answer may take to begin once the call is sent; None leaves it to ``timeout_s``."""
    fair_s: float | None = None
    """An attempt that was given less time than this, and ran out of it, tells nothing of it; None: ``timeout_s``."""
    breaker: CircuitBreaker | None = None
    """Whether calls go to it now; None lets all go."""
    bulkhead: Bulkhead | None = None
    """How many calls go to its provider at once; None sets no bound."""
    latency: LatencyQuantile | None = None
    """How long calls of it take; None where nobody needs to know."""
    keys: KeyRotation[Adapter] | None = None
    """The adapters of its provider's several keys, in turns; None where ``adapter`` is the only one."""


class PricedCandidate(msgspec.Struct, frozen=True):
    """A candidate at the price in force when the call came."""

    candidate: Candidate
    price: Price


class Models:
    """Model name → its candidates, the primary first.

    Args:
        fallbacks: by model, those that may answer in its place.
        aliases: further names, each of one model.
        tiers: by model, the tiers whose tenants may use it; a model that is not named is everybody's.
        tier_fallbacks: by model and tier, those that answer in its place for that tier's tenants.
    """

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        fallbacks: Mapping[str, Sequence[str]],
        prices: PriceBook,
        *,
        aliases: Mapping[str, str] = MappingProxyType({}),
        tiers: Mapping[str, frozenset[str]] = MappingProxyType({}),
        tier_fallbacks: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({}),
    ) -> None:
        self._candidates = candidates
        self._fallbacks = fallbacks
        self._prices = prices
        self._aliases = aliases
        self._tiers = tiers
        self._tier_fallbacks = tier_fallbacks

    def priced(self, name: str) -> tuple[PricedCandidate, ...]:
        """Return the candidates of a model: the primary, then its fallbacks in order.

        A fallback without a price is left out, since it could not be paid for.

        Raises:
            ModelUnknown: no such model is configured.
            ModelUnpriced: it has no price.
        """
        model = self._aliases.get(name, name)
        primary = self._candidates.get(model)
        if primary is None:
            known = ", ".join(sorted(self._candidates)[:10]) or "none"
            raise ModelUnknown(f"no model {name[:100]!r} is configured; configured are: {known}")
        first = PricedCandidate(primary, self._prices.price_for(model))
        fallbacks = self._fallbacks.get(model)
        return (first, *self._priced(fallbacks)) if fallbacks else (first,)

    def tier_chains(self, model: str) -> Mapping[str, tuple[PricedCandidate, ...]] | None:
        """Return a configured model's fallbacks by tier, for the tiers that have their own; None where none has."""
        chains = self._tier_fallbacks.get(model)
        if chains is None:
            return None
        return {tier: tuple(self._priced(names)) for tier, names in chains.items()}

    def _priced(self, names: Sequence[str]) -> Iterator[PricedCandidate]:
        for name in names:
            price = self._prices.get(name)
            if price is not None:
                yield PricedCandidate(self._candidates[name], price)

    def tiers_of(self, model: str) -> frozenset[str] | None:
        """Return the tiers whose tenants may use a configured model; None for all."""
        return self._tiers.get(model)

    def offered(self) -> Iterator[tuple[str, Candidate, Price | None]]:
        """Return every name that callers may use, in order: the model behind it, and its price in force."""
        for name in sorted({*self._candidates, *self._aliases}):
            candidate = self._candidates[self._aliases.get(name, name)]
            yield name, candidate, self._prices.get(candidate.model)
