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
    """

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        fallbacks: Mapping[str, Sequence[str]],
        prices: PriceBook,
        *,
        aliases: Mapping[str, str] = MappingProxyType({}),
        tiers: Mapping[str, frozenset[str]] = MappingProxyType({}),
    ) -> None:
        self._candidates = candidates
        self._fallbacks = fallbacks
        self._prices = prices
        self._aliases = aliases
        self._tiers = tiers

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
        priced = [PricedCandidate(primary, self._prices.price_for(model))]
        for other in self._fallbacks.get(model, ()):
            price = self._prices.get(other)
            if price is not None:
                priced.append(PricedCandidate(self._candidates[other], price))
        return tuple(priced)

    def tiers_of(self, model: str) -> frozenset[str] | None:
        """Return the tiers whose tenants may use a configured model; None for all."""
        return self._tiers.get(model)

    def offered(self) -> Iterator[tuple[str, Candidate, Price | None]]:
        """Return every name that callers may use, in order: the model behind it, and its price in force."""
        for name in sorted({*self._candidates, *self._aliases}):
            candidate = self._candidates[self._aliases.get(name, name)]
            yield name, candidate, self._prices.get(candidate.model)
