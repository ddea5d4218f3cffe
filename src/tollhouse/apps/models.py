"""``GET /v1/models``: the address at which OpenAI's and Anthropic's clients look up what they may call."""

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, PathParameter

from tollhouse.completions.listing import ModelCard, ModelList, ModelListing
from tollhouse.keys.model import Principal

_Listing = NamedDependency[ModelListing]
_Caller = NamedDependency[Principal]
_Tenant = Annotated[
    str | None, HeaderParameter(name="X-Tenant-Id", description="whose models; by default the key's only tenant's")
]
_Name = Annotated[str, PathParameter(description="a model's name, or an alias")]


class ModelRoutes(Controller):
    """The models."""

    path = "/v1/models"
    tags = ("Models",)

    @get()
    async def list_models(self, listing: _Listing, principal: _Caller, tenant_id: _Tenant = None) -> ModelList:
        """Return the models that this key may call, with their bounds and prices."""
        return await listing.of(principal, tenant_id)

    @get("/{model:path}")
    async def get_model(
        self, model: _Name, listing: _Listing, principal: _Caller, tenant_id: _Tenant = None
    ) -> ModelCard:
        """Return one model."""
        return await listing.one(principal, tenant_id, model.removeprefix("/"))
