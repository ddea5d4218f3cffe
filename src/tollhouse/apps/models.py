"""The addresses at which the vendors' own clients look up what they may call."""

from typing import Annotated, Any

from litestar import Controller, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, PathParameter

from tollhouse.completions.listing import ModelCard, ModelList, ModelListing
from tollhouse.completions.wire.models import model_body, models_body
from tollhouse.completions.wire.registry import api_around
from tollhouse.keys.model import Principal
from tollhouse.providers.base import ApiName

_Listing = NamedDependency[ModelListing]
_Caller = NamedDependency[Principal]
_Request = Request[Any, Any, State]
_Tenant = Annotated[
    str | None, HeaderParameter(name="X-Tenant-Id", description="whose models; by default the key's only tenant's")
]
_Name = Annotated[str, PathParameter(description="a model's name, or an alias")]


class ModelRoutes(Controller):
    """The models."""

    path = "/v1/models"
    tags = ("Models",)

    @get()
    async def list_models(
        self, request: _Request, listing: _Listing, principal: _Caller, tenant_id: _Tenant = None
    ) -> Response[ModelList]:
        """Return the models that this key may call, with their bounds and prices."""
        return _json(models_body(_asked_by(request), await listing.of(principal, tenant_id)))

    @get("/{model:path}")
    async def get_model(
        self, request: _Request, model: _Name, listing: _Listing, principal: _Caller, tenant_id: _Tenant = None
    ) -> Response[ModelCard]:
        """Return one model."""
        return _json(model_body(_asked_by(request), await listing.one(principal, tenant_id, model.removeprefix("/"))))


class GoogleModelRoutes(Controller):
    """The same at Google's address, as its clients read it."""

    path = "/v1beta/models"
    include_in_schema = False

    @get()
    async def list_googles(
        self, listing: _Listing, principal: _Caller, tenant_id: _Tenant = None
    ) -> Response[ModelList]:
        return _json(models_body("gemini", await listing.of(principal, tenant_id)))

    @get("/{name:str}")
    async def get_googles(
        self, name: FromPath[str], listing: _Listing, principal: _Caller, tenant_id: _Tenant = None
    ) -> Response[ModelCard]:
        return _json(model_body("gemini", await listing.one(principal, tenant_id, name)))


def _asked_by(request: _Request) -> ApiName:
    api = api_around(request.scope["path"], request.scope["headers"])
    assert api is not None, "it is an address of existing clients"
    return api.name


def _json(body: bytes) -> Response[Any]:
    return Response(body, media_type="application/json")
