"""Budgets and reservations."""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from operator import attrgetter
from typing import NamedTuple

import msgspec

from tollhouse.kit.scopes import Scope, describe_owner

_TENTH = Decimal("0.1")


class BudgetKey(NamedTuple):
    """What one cap of one month is kept for.

    ``tenant_id`` is "" for a service key's cap, which holds for all tenants together; ``scope_id`` is "" for the
    tenant's own cap.
    """

    tenant_id: str
    billing_period: str
    scope: Scope
    scope_id: str

    def describe(self) -> str:
        """Name the budget in a sentence."""
        return describe_owner(self.tenant_id, self.scope, self.scope_id)


def budget_keys(
    tenant_id: str, billing_period: str, user_id: str, feature_slug: str, key_id: str
) -> tuple[BudgetKey, ...]:
    """Return the budgets that a call counts against, where a cap exists for them."""
    keys = (
        BudgetKey(tenant_id, billing_period, "tenant", ""),
        BudgetKey(tenant_id, billing_period, "feature", feature_slug),
        BudgetKey("", billing_period, "key", key_id),
    )
    return (*keys, BudgetKey(tenant_id, billing_period, "user", user_id)) if user_id else keys


class Budget(msgspec.Struct):
    """The state of one cap in one month; ``posted + reserved <= cap`` is what admission keeps true."""

    cap_nano_usd: int
    posted_nano_usd: int
    reserved_nano_usd: int

    @property
    def left_nano_usd(self) -> int:
        """What a new reservation may take; negative after a cap was lowered below what is spoken for."""
        return self.cap_nano_usd - self.posted_nano_usd - self.reserved_nano_usd


def percentage(posted_nano_usd: int, cap_nano_usd: int) -> Decimal:
    """Return what is posted in percent of a cap, to one decimal; a cap of nothing is used up by anything."""
    if not cap_nano_usd:
        return Decimal("100.0") if posted_nano_usd else Decimal("0.0")
    return (Decimal(posted_nano_usd * 100) / cap_nano_usd).quantize(_TENTH, ROUND_HALF_UP)


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """The ceiling of one attempt, durable before the provider is called.

    It names everything the ledger row will need, so that an attempt whose process died can still be entered.
    """

    request_id: str
    attempt: int
    """1 for a request's first try at a provider, counting up with each further one."""
    tenant_id: str
    user_id: str
    feature_slug: str
    service: str
    key_id: str
    model: str
    provider: str
    price_version: str
    ceiling_nano_usd: int
    billing_period: str
    """The month of admission, which is the month that is charged."""
    created_at: str

    def budget_keys(self) -> tuple[BudgetKey, ...]:
        """The budgets this attempt counts against, where a cap exists for them."""
        return budget_keys(*charged_to(self))


ChargedTo = tuple[str, str, str, str, str]
"""What the budgets that a reservation counts against follow from: the arguments of ``budget_keys``."""

charged_to: Callable[[Reservation], ChargedTo] = attrgetter(
    "tenant_id", "billing_period", "user_id", "feature_slug", "key_id"
)
"""Returns it of a reservation."""

limited_by_of: Callable[[Reservation], tuple[str, str, str, str]] = attrgetter(
    "tenant_id", "user_id", "feature_slug", "key_id"
)
"""Returns what the limits of a reservation's call follow from: the arguments of ``limit_keys``."""


class Movement:
    """What a batch of settlements changes in one budget."""

    __slots__ = ("posted_nano_usd", "reserved_nano_usd")

    def __init__(self) -> None:
        self.posted_nano_usd = 0
        self.reserved_nano_usd = 0

    def add(self, posted_nano_usd: int, reserved_nano_usd: int) -> None:
        self.posted_nano_usd += posted_nano_usd
        self.reserved_nano_usd += reserved_nano_usd
