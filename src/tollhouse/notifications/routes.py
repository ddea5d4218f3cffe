"""The addresses of events, as they are documented. Following is served ahead of the framework (``apps/events.py``)."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from tollhouse.keys.model import Principal
from tollhouse.notifications.service import Notifications, Token, TokenRequest


class EventPage(msgspec.Struct, frozen=True):
    """Events in their order, each as CloudEvents 1.0.

    Attributes:
        position: to be given as ``after`` for those that follow.
    """

    events: list[dict[str, Any]]
    position: int


class EventRoutes(Controller):
    """Following events, and the tokens with which browsers do."""

    path = "/events"
    tags = ("Events",)

    @get()
    async def get_events(
        self,
        tenant_id: Annotated[
            str | None, QueryParameter(description="whose; by default all that may be followed")
        ] = None,
        user_id: Annotated[str | None, QueryParameter(description="of this user alone")] = None,
        types: Annotated[str | None, QueryParameter(description="of these types, with commas in between")] = None,
        after: Annotated[
            int | None, QueryParameter(ge=0, description="go on after this position; 0: from the oldest that is kept")
        ] = None,
        token: Annotated[str | None, QueryParameter(description="a browser's token, in the place of a key")] = None,
        wait_s: Annotated[float, QueryParameter(ge=0, le=50, description="of a long poll: how long to wait")] = 25,
        limit: Annotated[int, QueryParameter(ge=1, le=500, description="of a long poll: how many at most")] = 100,
    ) -> EventPage:
        """Follow events: as a stream, or with `Accept: application/json` by long poll."""
        raise AssertionError("it is served ahead of the framework")

    @post("/token", status_code=200)
    async def create_event_token(
        self,
        data: JSONBody[TokenRequest],
        notifications: NamedDependency[Notifications],
        principal: NamedDependency[Principal],
    ) -> Token:
        """Return a short-lived token with which a browser follows a tenant's or a user's events."""
        return notifications.token(principal, data)
