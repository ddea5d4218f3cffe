"""Requests per minute and tenant, by the generic cell rate algorithm (ITU-T I.371): a token bucket in one number."""

_US_PER_MINUTE = 60_000_000
_US_PER_S = 1_000_000
# Buckets that are full again say nothing; they are dropped once so many are held.
_SWEEP_AT = 20_000


class RateLimiter:
    """Token buckets that hold ``burst`` calls and refill at ``requests_per_minute``.

    A tenant's state is the instant at which its bucket will be full again, in microseconds of the monotonic clock.
    """

    def __init__(self, *, requests_per_minute: int, burst: int) -> None:
        """``requests_per_minute`` 0 means no limit."""
        self._interval_us = _US_PER_MINUTE // requests_per_minute if requests_per_minute else 0
        self._tolerance_us = self._interval_us * burst
        self._full_at_us: dict[str, int] = {}
        self._sweep_at = _SWEEP_AT

    def wait_s(self, tenant_id: str, now_s: float) -> float:
        """Return 0 if a tenant's bucket holds a call, or the seconds until it does; takes nothing."""
        if not self._interval_us:
            return 0
        now_us = int(now_s * _US_PER_S)
        over_us = self._full_after_us(tenant_id, now_us) - now_us - self._tolerance_us
        return max(over_us, 0) / _US_PER_S

    def take(self, tenant_id: str, now_s: float) -> None:
        """Take a call from a tenant's bucket."""
        if not self._interval_us:
            return
        now_us = int(now_s * _US_PER_S)
        self._full_at_us[tenant_id] = self._full_after_us(tenant_id, now_us)
        if len(self._full_at_us) > self._sweep_at:
            self._sweep(now_us)

    def give_back(self, tenant_id: str) -> None:
        """Return a call that was taken, but not served."""
        if tenant_id in self._full_at_us:
            self._full_at_us[tenant_id] -= self._interval_us

    def _full_after_us(self, tenant_id: str, now_us: int) -> int:
        """Return when a bucket would be full again if one more call was taken now."""
        return max(self._full_at_us.get(tenant_id, 0), now_us) + self._interval_us

    def _sweep(self, now_us: int) -> None:
        self._full_at_us = {tenant: full_at for tenant, full_at in self._full_at_us.items() if full_at > now_us}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._full_at_us))
