"""Following events: who may, from where, and how many at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec

from tollhouse.config.events import Events
from tollhouse.errors import Forbidden, InvalidRequest
from tollhouse.events.feed import Feed, Follower
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.kit.ids import id_text
from tollhouse.kit.validation import OutsideId
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.places import Places
from tollhouse.notifications.request import FollowRequest, grant_of, read_request
from tollhouse.notifications.tokens import EventTokens

_MOST_TTL_S = 86_400


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose events a browser is to follow.

    Attributes:
        tenant_id: by default the key's only tenant.
        user_id: the one user whose events it gets; without it, it gets all of the tenant's.
        ttl_s: for how long, in seconds; at most, and by default, what is configured.
    """

    tenant_id: OutsideId | None = None
    user_id: OutsideId | None = None
    ttl_s: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TTL_S)] | None = None


class Token(msgspec.Struct, frozen=True):
    """A token for a browser.

    Attributes:
        token: to be sent as ``?token=`` to ``/events`` or ``/events/ws``.
        expires_at: when it ends, and every stream that was opened with it.
    """

    token: str
    expires_at: str


class Notifications:
    """Lets in those who want to follow events.

    Attributes:
        dropped: how many were hung up on because they did not read.
    """

    def __init__(self, feed: Feed, keyring: Keyring, clock: Clock, settings: Events) -> None:
        self.feed = feed
        self.settings = settings
        self.dropped = 0
        self.tokens = EventTokens(keyring, clock)
        self._places = Places(settings.max_clients, settings.max_clients_per_tenant)
        self._keyring = keyring
        self._clock = clock

    def read(self, headers: Sequence[tuple[bytes, bytes]], query: bytes) -> tuple[FollowRequest, Grant]:
        """Return what a request asks for and what its sender may follow; raises Unauthorized, InvalidRequest."""
        request = read_request(headers, query)
        return request, grant_of(headers, request, self._keyring, self.tokens)

    @asynccontextmanager
    async def following(self, request: FollowRequest, grant: Grant) -> AsyncIterator[Follower]:
        """Follow for as long as the context lasts.

        Raises:
            InvalidRequest: an id is none.
            Forbidden: what is asked for may not be followed.
            EventsGone: what followed the position is no longer kept.
            RateLimited: too many follow of this tenant.
            Unavailable: too many follow, or the database cannot be read.
        """
        selection = grant.select(request.tenant_id, request.user_id, request.types)
        with self._places.taken(selection, grant), await self.feed.follow(selection, request.after) as follower:
            yield follower

    def may_go_on(self, grant: Grant) -> bool:
        """Whether a stream that is open may stay so."""
        return grant.holds(self._keyring, self._clock.now_ms())

    def left_s(self, grant: Grant) -> float:
        """Return the seconds after which a stream is to be looked at again: a heartbeat's, or until the token ends."""
        if grant.expires_at_ms is None:
            return self.settings.heartbeat_s
        left_s = (grant.expires_at_ms - self._clock.now_ms()) / 1000
        return max(0.0, min(self.settings.heartbeat_s, left_s))

    def token(self, principal: Principal, wanted: TokenRequest) -> Token:
        """Make a token; raises InvalidRequest, Forbidden, TenantForbidden."""
        if not principal.may_complete:
            raise Forbidden("tokens are given to service keys, which speak for users; a reader's key reads by itself")
        tenant_id = principal.only_tenant if wanted.tenant_id is None else id_text(wanted.tenant_id)
        if tenant_id is None:
            raise InvalidRequest("tenant_id: is required, as this key is not bound to one tenant")
        user_id = None if wanted.user_id is None else id_text(wanted.user_id)
        Grant.of(principal).select(tenant_id, user_id)
        ttl_s = self.settings.token_ttl_s if wanted.ttl_s is None else min(wanted.ttl_s, self.settings.token_ttl_s)
        expires_at_ms = self._clock.now_ms() + ttl_s * 1000
        return Token(self.tokens.make(principal.key_id, tenant_id, user_id, expires_at_ms), utc_text(expires_at_ms))
