"""Why an attempt is not admitted, in the words that its caller is told."""

import math

from tollhouse.budgets.model import BudgetKey, Reservation
from tollhouse.errors import (
    BudgetExceeded,
    CallTimeout,
    FeatureDisabled,
    IdempotencyInFlight,
    IdempotencyMismatch,
    ModelForbidden,
    ModuleExpired,
    ModuleInactive,
    RateLimited,
    TollhouseError,
    TooManyTokens,
)
from tollhouse.kit.money import usd
from tollhouse.limits.model import Refused, Standing

_US_PER_S = 1_000_000


def inactive(of: Reservation) -> ModuleInactive:
    """Refuse a call of a tenant whose module was never switched on, or is off."""
    return ModuleInactive(f"the AI module of tenant {of.tenant_id} is not active; an administrator can activate it")


def expired(of: Reservation, expires_at: str | None) -> ModuleExpired:
    """Refuse a call of a tenant whose module has run out."""
    return ModuleExpired(f"the AI module of tenant {of.tenant_id} expired at {expires_at}")


def disabled(of: Reservation) -> FeatureDisabled:
    """Refuse a call for a feature that is switched off."""
    return FeatureDisabled(f"the feature {of.feature_slug!r} is switched off for tenant {of.tenant_id}")


def not_in_tier(of: Reservation, tier: str) -> ModelForbidden:
    """Refuse a call of a model that the tenant's tier has not."""
    return ModelForbidden(
        f"the model {of.model} is not among those of the tier {tier}, which tenant {of.tenant_id} has"
    )


def limited(refused: Refused, tokens: int, standing: tuple[Standing, ...]) -> TollhouseError:
    """Refuse a call that a limit does not let pass, now or, by its ``tokens``, ever."""
    whose, limit = refused.key.describe(), refused.limit
    error: TollhouseError
    if not refused.wait_us:
        error = TooManyTokens(
            f"this call may use {tokens} tokens, but {whose} has {limit.tokens_per_minute} a minute; lower max_tokens, "
            "send less, or have the limit raised"
        )
    else:
        wait_s = refused.wait_us / _US_PER_S
        reached = {
            "requests": f"its rate limit of {limit.requests_per_minute} calls a minute",
            "tokens": f"its limit of {limit.tokens_per_minute} tokens a minute",
            "concurrent": f"its limit of {limit.concurrent_calls} calls at the same time",
        }[refused.kind]
        error = RateLimited(f"{whose} has reached {reached}; try again in {math.ceil(wait_s)} s", retry_after_s=wait_s)
    error.standing = standing
    return error


def budget_exceeded(key: BudgetKey, ceiling_nano_usd: int, left_nano_usd: int, cap_nano_usd: int) -> BudgetExceeded:
    """Refuse a call whose ceiling does not fit what is left of a budget."""
    return BudgetExceeded(
        f"this call could cost up to ${usd(ceiling_nano_usd):f}, but {key.describe()} has "
        f"${usd(max(left_nano_usd, 0)):f} left of its ${usd(cap_nano_usd):f} for {key.billing_period}; lower "
        "max_tokens, or have the budget raised"
    )


def mismatch() -> IdempotencyMismatch:
    """Refuse another body under the same idempotency key."""
    return IdempotencyMismatch(
        "this Idempotency-Key was used with another body; send the same body, or a new key for a new call"
    )


def in_flight() -> IdempotencyInFlight:
    """Refuse a call whose idempotency key is being answered now."""
    return IdempotencyInFlight(
        "a call with this Idempotency-Key is being answered now; try again shortly to get its answer", retry_after_s=1
    )


def lost() -> CallTimeout:
    """Refuse a call whose idempotency key was paid for, perhaps, without an answer."""
    error = CallTimeout(
        "an earlier call with this Idempotency-Key may have been billed, and its answer was lost; to have another "
        "call made, send a new key",
        may_be_billed=True,
    )
    error.replayed = True
    return error
