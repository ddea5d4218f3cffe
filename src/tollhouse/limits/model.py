"""Limits, whom they hold for, and where each stands."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from tollhouse.kit.scopes import Scope, describe_owner

SCOPES: tuple[Scope, ...] = ("tenant", "user", "feature", "key")

Kind = Literal["requests", "tokens", "concurrent"]
"""What a limit counts: calls by the minute, tokens by the minute, or calls that run at the same time."""


class LimitKey(NamedTuple):
    """Whose limit it is.

    ``tenant_id`` is "" for a service key's, which holds for all tenants together; ``scope_id`` is "" for a tenant's.
    """

    tenant_id: str
    scope: Scope
    scope_id: str

    def describe(self) -> str:
        """Name it in a sentence."""
        return describe_owner(self.tenant_id, self.scope, self.scope_id)


# Each call asks at its beginning and at its end.
@lru_cache(maxsize=4096)
def limit_keys(tenant_id: str, user_id: str, feature_slug: str, key_id: str) -> tuple[LimitKey, ...]:
    """Return whose limits hold for a call, in the order in which they are looked at."""
    keys = (
        LimitKey(tenant_id, "tenant", ""),
        LimitKey(tenant_id, "feature", feature_slug),
        LimitKey("", "key", key_id),
    )
    return (*keys, LimitKey(tenant_id, "user", user_id)) if user_id else keys


class Limit(msgspec.Struct, frozen=True, gc=False):
    """All that limits one tenant, user, feature or key; 0 sets no limit.

    Attributes:
        burst: how many calls may come at once after a pause; ``requests_per_minute`` refills it.
        tokens_per_minute: also how many tokens may come at once after a pause.
    """

    requests_per_minute: int = 0
    burst: int = 1
    tokens_per_minute: int = 0
    concurrent_calls: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrent_calls)


class OwnLimit(msgspec.Struct, frozen=True, gc=False):
    """What of a limit is set for one tenant, user, feature or key; None takes the configuration's."""

    requests_per_minute: int | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrent_calls: int | None = None

    def over(self, base: Limit) -> Limit:
        """Return a limit with what is set here in the place of its own."""
        return Limit(
            base.requests_per_minute if self.requests_per_minute is None else self.requests_per_minute,
            base.burst if self.burst is None else self.burst,
            base.tokens_per_minute if self.tokens_per_minute is None else self.tokens_per_minute,
            base.concurrent_calls if self.concurrent_calls is None else self.concurrent_calls,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is set."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name) is not None)


OWN_FIELDS = OwnLimit.__struct_fields__


class Rules:
    """The limits that the configuration sets.

    Args:
        base: by scope; a scope that is left out has none.
        tiers: what a tier's tenants, and their users and features, have instead.

    Attributes:
        tiers: the limits of each tier that has some of its own, and under "" those of all others, which are ``base``.
        limits_tenants_alone: it has no limit of users, features or keys.
        limits_running: it limits how many calls of somebody run at the same time.
    """

    def __init__(
        self,
        base: Mapping[Scope, Limit],
        tiers: Mapping[str, Mapping[Scope, Limit]] | None = None,
    ) -> None:
        self.base: dict[Scope, Limit] = {scope: base.get(scope, Limit()) for scope in SCOPES}
        own: dict[str, dict[Scope, Limit]] = {name: {**self.base, **limits} for name, limits in (tiers or {}).items()}
        self.tiers: dict[str, dict[Scope, Limit]] = {"": self.base, **own}
        every = [(scope, limit) for limits in self.tiers.values() for scope, limit in limits.items() if limit]
        self.limits_tenants_alone = all(scope == "tenant" for scope, _ in every)
        self.limits_running = any(limit.concurrent_calls for _, limit in every)

    def of(self, scope: Scope, tier: str) -> Limit:
        """Return the limit of whoever has none of their own."""
        return self.tiers.get(tier, self.base)[scope]


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where a limit stands once a call was decided on.

    Attributes:
        requests_taken: how much of the bucket of calls is taken, in ``UNITS`` (see ``bucket.py``).
        tokens_taken: the same of the bucket of tokens.
        running: how many calls run; 0 where ``limit`` does not limit them.
    """

    key: LimitKey
    limit: Limit
    requests_taken: int
    tokens_taken: int
    running: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Why a call is not admitted.

    Attributes:
        wait_us: how long until it could be, by this limit and all others; 0: it never fits ``key``'s tokens per minute.
    """

    key: LimitKey
    kind: Kind
    limit: Limit
    wait_us: int
