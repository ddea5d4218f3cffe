"""The operators' addresses of webhooks. Whoever mounts them lets super-admins alone through."""

from typing import Annotated

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from tollhouse.keys.model import Principal
from tollhouse.webhooks.body import (
    DeliveryPage,
    DeliveryRecord,
    NewWebhook,
    Revived,
    Webhook,
    WebhookChanges,
    WebhookList,
    WebhookRequest,
)
from tollhouse.webhooks.model import State
from tollhouse.webhooks.service import WebhookAdministration

_Service = NamedDependency[WebhookAdministration]
_Caller = NamedDependency[Principal]


class WebhookRoutes(Controller):
    """Endpoints that events are sent to."""

    path = "/admin/webhooks"
    tags = ("Webhooks",)

    @get()
    async def list_webhooks(
        self,
        webhooks: _Service,
        tenant_id: Annotated[str | None, QueryParameter(description="only this tenant's")] = None,
    ) -> WebhookList:
        """List the endpoints."""
        return await webhooks.endpoints(tenant_id)

    @post(status_code=200)
    async def create_webhook(
        self, webhooks: _Service, principal: _Caller, data: JSONBody[WebhookRequest]
    ) -> NewWebhook:
        """Make an endpoint; its secret is shown once."""
        return await webhooks.create(data, principal.key_id)

    @get("/{endpoint_id:str}")
    async def get_webhook(self, webhooks: _Service, endpoint_id: FromPath[str]) -> Webhook:
        """Return an endpoint."""
        return await webhooks.endpoint(endpoint_id)

    @patch("/{endpoint_id:str}")
    async def change_webhook(
        self, webhooks: _Service, principal: _Caller, endpoint_id: FromPath[str], data: JSONBody[WebhookChanges]
    ) -> Webhook:
        """Change an endpoint, or switch it on or off."""
        return await webhooks.change(endpoint_id, data, principal.key_id)

    @delete("/{endpoint_id:str}")
    async def delete_webhook(self, webhooks: _Service, principal: _Caller, endpoint_id: FromPath[str]) -> None:
        """Delete an endpoint with all that was to be sent there."""
        await webhooks.delete(endpoint_id, principal.key_id)

    @post("/{endpoint_id:str}/rotate", status_code=200)
    async def rotate_webhook_secret(
        self, webhooks: _Service, principal: _Caller, endpoint_id: FromPath[str]
    ) -> NewWebhook:
        """Give an endpoint a new secret; the one before signs too for a while."""
        return await webhooks.rotate(endpoint_id, principal.key_id)

    @post("/{endpoint_id:str}/test", status_code=202)
    async def send_test_event(
        self, webhooks: _Service, principal: _Caller, endpoint_id: FromPath[str]
    ) -> DeliveryRecord:
        """Send a test event to an endpoint, as all others are sent; the delivery tells what came of it."""
        return await webhooks.send_test(endpoint_id, principal.key_id)

    @post("/{endpoint_id:str}/retry", status_code=200)
    async def retry_dead_deliveries(
        self, webhooks: _Service, principal: _Caller, endpoint_id: FromPath[str]
    ) -> Revived:
        """Try all dead deliveries of an endpoint anew."""
        return await webhooks.retry_dead(endpoint_id, principal.key_id)


class DeliveryRoutes(Controller):
    """What was or is to be sent."""

    path = "/admin/webhook-deliveries"
    tags = ("Webhooks",)

    @get()
    async def list_deliveries(
        self,
        webhooks: _Service,
        delivery_state: Annotated[
            State | None, QueryParameter(name="state", description="only those in this state; dead ones gave up")
        ] = None,
        endpoint_id: Annotated[str | None, QueryParameter(description="only those of this endpoint")] = None,
        before: Annotated[str | None, QueryParameter(description="only those before this one")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=1000, description="how many to return at most")] = 100,
    ) -> DeliveryPage:
        """List deliveries, the newest first."""
        return await webhooks.deliveries(state=delivery_state, endpoint_id=endpoint_id, before=before, limit=limit)

    @get("/{delivery_id:str}")
    async def get_delivery(self, webhooks: _Service, delivery_id: FromPath[str]) -> DeliveryRecord:
        """Return a delivery."""
        return await webhooks.delivery(delivery_id)

    @post("/{delivery_id:str}/retry", status_code=200)
    async def retry_delivery(self, webhooks: _Service, principal: _Caller, delivery_id: FromPath[str]) -> Revived:
        """Try a delivery anew."""
        return await webhooks.retry(delivery_id, principal.key_id)

    @delete("/{delivery_id:str}")
    async def drop_delivery(self, webhooks: _Service, principal: _Caller, delivery_id: FromPath[str]) -> None:
        """Delete a delivery: it is not tried any more."""
        await webhooks.drop(delivery_id, principal.key_id)
