"""The arithmetic of a token bucket, in whole numbers alone: the same here and in ``ai_drained`` and ``ai_admit``.

What is taken from a bucket is counted in units of which a call, or a token, has 60 million: a bucket that refills by
one a minute then refills by exactly one unit a microsecond, and nothing is ever rounded. A bucket is what was taken
and when that was looked at; how large it is, and how fast it refills, is its limit's. So a limit may be changed at any
time: what is taken stays taken, and drains by the new rate.
"""

from tollhouse.limits.model import Limit, LimitKey, Refused

UNITS = 60_000_000
# Nobody can know when a call that runs will end.
CONCURRENT_WAIT_US = 1_000_000


def drained(taken: int, per_minute: int, elapsed_us: int) -> int:
    """Return what is still taken from a bucket after a while; all is given back where there is no limit any more."""
    if not per_minute:
        return 0
    return max(taken - max(elapsed_us, 0) * per_minute, 0)


def wait_us(taken: int, more: int, size: int, per_minute: int) -> int:
    """Return how long until a bucket that holds ``size`` has room for ``more``, rounded up; 0 if it has now."""
    over = taken + (more - size) * UNITS
    return -(-over // per_minute) if over > 0 else 0


def refusal(
    key: LimitKey, limit: Limit, tokens: int, requests_taken: int, tokens_taken: int, running: int
) -> Refused | None:
    """Return why a limit does not let a further call pass, with the longest of its waits; None if it does.

    Args:
        tokens: what the call may use.
        requests_taken: of the bucket of calls, drained until now; ``tokens_taken`` of that of tokens.
        running: how many calls run now.
    """
    longest: Refused | None = None
    if limit.requests_per_minute:
        wait = wait_us(requests_taken, 1, limit.burst, limit.requests_per_minute)
        if wait:
            longest = Refused(key, "requests", limit, wait)
    if limit.tokens_per_minute:
        if tokens > limit.tokens_per_minute:
            return Refused(key, "tokens", limit, 0)
        wait = wait_us(tokens_taken, tokens, limit.tokens_per_minute, limit.tokens_per_minute)
        if wait > (0 if longest is None else longest.wait_us):
            longest = Refused(key, "tokens", limit, wait)
    is_full = 0 < limit.concurrent_calls <= running
    if is_full and (longest is None or longest.wait_us < CONCURRENT_WAIT_US):
        longest = Refused(key, "concurrent", limit, CONCURRENT_WAIT_US)
    return longest
