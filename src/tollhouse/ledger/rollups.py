"""The rollups kept in the transaction that settles: what an entry adds, and to which rows."""

from collections.abc import Callable, Iterable
from operator import attrgetter

from tollhouse.ledger.model import LedgerEntry

MONTHLY_KEY = (
    "tenant_id",
    "billing_period",
    "user_id",
    "feature_slug",
    "service",
    "key_id",
    "model",
    "provider",
)
DAILY_KEY = ("tenant_id", "billing_period", "day")

monthly_key: Callable[[LedgerEntry], tuple[str, ...]] = attrgetter(*MONTHLY_KEY)
"""Returns the key of an entry's row in ``ai_usage_monthly``."""


def daily_key(entry: LedgerEntry) -> tuple[str, ...]:
    """Return the key of an entry's row in ``ai_usage_daily``: the day (UTC) of admission."""
    return (entry.tenant_id, entry.billing_period, entry.admitted_at[:10])


def counts(entry: LedgerEntry, ceiling_nano_usd: int) -> tuple[int, ...]:
    """Return what an entry adds, in the order of ``ROLLUP_COUNTS``.

    An unknown outcome is counted beside the calls, at its ceiling, and is no cost. The adjustment that resolves it
    takes it from there: it is a call of what it used, or none if it was not billed.

    Args:
        entry: the row.
        ceiling_nano_usd: what was reserved for its attempt.
    """
    if entry.status == "unknown":
        return (0, 0, 0, 0, 0, 0, 0, 0, 1, ceiling_nano_usd)
    is_adjustment = entry.status == "adjustment"
    is_billed = entry.total_tokens > 0 or entry.cost_nano_usd > 0 or entry.other_usage != ""
    return (
        1 if is_billed or not is_adjustment else 0,
        entry.input_tokens,
        entry.cached_input_tokens,
        entry.cache_write_tokens + entry.cache_write_1h_tokens,
        entry.output_tokens,
        entry.reasoning_tokens,
        entry.total_tokens,
        entry.cost_nano_usd,
        -1 if is_adjustment else 0,
        -ceiling_nano_usd if is_adjustment else 0,
    )


def sums(keys: Iterable[tuple[str, ...]], added: Iterable[tuple[int, ...]]) -> list[tuple[str | int, ...]]:
    """Return each key once, followed by the sums of what is added under it."""
    by_key: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for key, counted in zip(keys, added, strict=True):
        by_key.setdefault(key, []).append(counted)
    return [(*key, *map(sum, zip(*counted, strict=True))) for key, counted in by_key.items()]
