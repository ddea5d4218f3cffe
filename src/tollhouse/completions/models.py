"""The configured models, each with the candidates that may answer for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from tollhouse.errors import ModelUnknown
from tollhouse.pricing.book import PriceBook
from tollhouse.pricing.model import Price
from tollhouse.providers.base import Adapter, WireRequest, WireResponse


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
    first_byte_timeout_s: float | None = None
    """The longest that an answer may take to begin once the call is sent; None leaves it to ``timeout_s``."""


class PricedCandidate(msgspec.Struct, frozen=True):
    """A candidate at the price in force when the call came."""

    candidate: Candidate
    price: Price


class Models:
    """Model name → its candidates, the primary first."""

    def __init__(
        self, candidates: Mapping[str, Candidate], fallbacks: Mapping[str, Sequence[str]], prices: PriceBook
    ) -> None:
        self._candidates = candidates
        self._fallbacks = fallbacks
        self._prices = prices

    def priced(self, model: str) -> tuple[PricedCandidate, ...]:
        """Return the candidates of a model: the primary, then its fallbacks in order.

        A fallback without a price is left out, since it could not be paid for.

        Raises:
            ModelUnknown: no such model is configured.
            ModelUnpriced: it has no price.
        """
        primary = self._candidates.get(model)
        if primary is None:
            known = ", ".join(sorted(self._candidates)[:10]) or "none"
            raise ModelUnknown(f"no model {model[:100]!r} is configured; configured are: {known}")
        priced = [PricedCandidate(primary, self._prices.price_for(model))]
        for name in self._fallbacks.get(model, ()):
            price = self._prices.get(name)
            if price is not None:
                priced.append(PricedCandidate(self._candidates[name], price))
        return tuple(priced)
