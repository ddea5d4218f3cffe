"""What a caller may call: models with their bounds and prices, in a form that OpenAI's and Anthropic's clients read."""

from decimal import Decimal

import msgspec

from tollhouse.completions.models import Candidate, Models
from tollhouse.errors import ModelForbidden, ModelUnknown, TenantForbidden
from tollhouse.keys.model import Principal
from tollhouse.kit.money import usd
from tollhouse.pricing.model import Price
from tollhouse.storage.database import Database
from tollhouse.tenants import store as tenants

# Both vendors' clients want a date; what a model is configured as has none.
_CREATED_S = 0
_CREATED_AT = "1970-01-01T00:00:00Z"


class ModelPrice(msgspec.Struct, frozen=True):
    """A model's rates in USD per million tokens, for prompts of ordinary length."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    output: Decimal
    reasoning: Decimal


class ModelCard(msgspec.Struct, frozen=True):
    """One model, as OpenAI's and Anthropic's clients list it, and what is known of it besides.

    Attributes:
        owned_by: the provider that answers first.
        alias_of: the configured model that this is another name of.
        price: None for a model without one, calls of which are refused.
        capabilities: what can be asked of it in any client's format; its own format is relayed and may have more.
    """

    id: str
    owned_by: str
    display_name: str
    price: ModelPrice | None
    capabilities: tuple[str, ...]
    alias_of: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    object: str = "model"
    type: str = "model"
    created: int = _CREATED_S
    created_at: str = _CREATED_AT


class ModelList(msgspec.Struct, frozen=True):
    """The models, all on one page."""

    data: list[ModelCard]
    first_id: str | None
    last_id: str | None
    object: str = "list"
    has_more: bool = False


class ModelListing:
    """Lists models."""

    def __init__(self, models: Models, database: Database) -> None:
        self._models = models
        self._database = database

    async def of(self, principal: Principal, tenant_id: str | None) -> ModelList:
        """Return the models that a key may call for a tenant, or for its only one; without either, all.

        Raises:
            TenantForbidden: the key may not act for the tenant.
        """
        tenant_id = principal.only_tenant if tenant_id is None else tenant_id
        tier = None
        if tenant_id is not None:
            if not principal.may_act_for(tenant_id):
                raise TenantForbidden(f"this key may not act for tenant {tenant_id}", tenant_id=tenant_id)
            module = await self._database.read(lambda connection: tenants.find(connection, tenant_id))
            tier = None if module is None else module.tier
        cards = [
            _card(name, candidate, price)
            for name, candidate, price in self._models.offered()
            if tier is None or self._is_in(tier, candidate.model)
        ]
        return ModelList(cards, cards[0].id if cards else None, cards[-1].id if cards else None)

    async def one(self, principal: Principal, tenant_id: str | None, name: str) -> ModelCard:
        """Return one model; raises ModelUnknown, ModelForbidden or TenantForbidden."""
        offered = await self.of(principal, tenant_id)
        for card in offered.data:
            if card.id == name:
                return card
        if any(name == each for each, _, _ in self._models.offered()):
            raise ModelForbidden(f"the model {name!r} is not among those of the tenant's tier")
        raise ModelUnknown(f"no model {name[:100]!r} is configured")

    def _is_in(self, tier: str, model: str) -> bool:
        tiers = self._models.tiers_of(model)
        return tiers is None or tier in tiers


def _card(name: str, candidate: Candidate, price: Price | None) -> ModelCard:
    return ModelCard(
        id=name,
        owned_by=candidate.provider,
        display_name=name,
        price=None if price is None else _price(price),
        capabilities=candidate.adapter.capabilities,
        alias_of=None if name == candidate.model else candidate.model,
        context_window=candidate.context_window,
        max_output_tokens=candidate.max_output_tokens,
    )


def _price(price: Price) -> ModelPrice:
    rates = price.base
    return ModelPrice(
        input=usd(rates.input_nano_usd_per_mtok),
        cached_input=usd(rates.cached_input_nano_usd_per_mtok),
        cache_write=usd(rates.cache_write_nano_usd_per_mtok),
        cache_write_1h=usd(rates.cache_write_1h_nano_usd_per_mtok),
        output=usd(rates.output_nano_usd_per_mtok),
        reasoning=usd(rates.reasoning_nano_usd_per_mtok),
    )
