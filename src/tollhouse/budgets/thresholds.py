"""Shares of a cap that are told of once they are spent, and the events that tell of them.

A budget's row keeps the highest share that was told of (``told_percent``), so that each is told once in a month; it is
written where money is posted, in the same transaction, and where a cap is changed. PostgreSQL has the same rule in
``storage/functions/tell_thresholds.sql``.
"""

from collections.abc import Iterator, Sequence

import msgspec

from tollhouse.budgets.model import Budget, BudgetKey, percentage
from tollhouse.events.model import NewEvent
from tollhouse.kit.money import usd

EVENT_TYPE = "ai.budget.threshold"


class Thresholds(msgspec.Struct, frozen=True):
    """The shares.

    Attributes:
        percents: whole numbers from 1 to 100, ascending.
    """

    percents: tuple[int, ...] = ()

    @classmethod
    def of(cls, percents: Sequence[int]) -> "Thresholds":
        """Return them of any order."""
        return cls(tuple(sorted(percents)))

    def passed(self, budget: Budget) -> int:
        """Return the highest share that is spent, in percent; 0 for none."""
        spent, cap = budget.posted_nano_usd, budget.cap_nano_usd
        if not spent:
            return 0
        return max((percent for percent in self.percents if spent * 100 >= cap * percent), default=0)

    def events(self, key: BudgetKey, budget: Budget, told_percent: int, at_ms: int) -> Iterator[NewEvent]:
        """Return what is to be told of a budget, of which all up to ``told_percent`` was told before."""
        passed = self.passed(budget)
        for percent in self.percents:
            if told_percent < percent <= passed:
                yield _event(key, budget, percent, at_ms)


def _event(key: BudgetKey, budget: Budget, percent: int, at_ms: int) -> NewEvent:
    return NewEvent(
        type=EVENT_TYPE,
        tenant_id=key.tenant_id,
        user_id=key.scope_id if key.scope == "user" else "",
        subject=f"{key.scope}:{key.scope_id or key.tenant_id}",
        data={
            "billing_period": key.billing_period,
            "scope": key.scope,
            "scope_id": key.scope_id or None,
            "threshold_percent": percent,
            "pct_used": percentage(budget.posted_nano_usd, budget.cap_nano_usd),
            "budget_usd": usd(budget.cap_nano_usd),
            "spent_usd": usd(budget.posted_nano_usd),
        },
        at_ms=at_ms,
    )
