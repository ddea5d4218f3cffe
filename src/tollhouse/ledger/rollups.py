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


def counts(entry: LedgerEntry) -> tuple[int, ...]:
    """Return what an entry adds, in the order of ``ROLLUP_COUNTS``.

    An unknown outcome is counted beside the calls, at its ceiling, and is no cost until it is resolved. An
    adjustment resolves an unknown outcome or corrects a settled call: it adds cost and tokens, and no call.
    """
    if entry.status == "unknown":
        return (0, 0, 0, 0, 0, 0, 0, 0, 1, entry.cost_nano_usd)
    return (
        1 if entry.status == "settled" else 0,
        entry.input_tokens,
        entry.cached_input_tokens,
        entry.cache_write_tokens + entry.cache_write_1h_tokens,
        entry.output_tokens,
        entry.reasoning_tokens,
        entry.total_tokens,
        entry.cost_nano_usd,
        0,
        0,
    )


def sums(keys: Iterable[tuple[str, ...]], added: Iterable[tuple[int, ...]]) -> list[tuple[str | int, ...]]:
    """Return each key once, followed by the sums of what is added under it."""
    by_key: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for key, counted in zip(keys, added, strict=True):
        by_key.setdefault(key, []).append(counted)
    return [(*key, *map(sum, zip(*counted, strict=True))) for key, counted in by_key.items()]
