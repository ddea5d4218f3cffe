"""Where a call's limits stand, as header lines of its answer.

Everybody is told by the fields of the IETF's draft (draft-ietf-httpapi-ratelimit-headers): each limit has a line of
``RateLimit-Policy`` and of ``RateLimit``; and, by the names of its earlier versions, which clients still read, the
limit on calls that is nearest. What is left is what could be sent at once; the reset is when all of a limit is there
again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from tollhouse.kit.clock import utc_text
from tollhouse.kit.scopes import Scope
from tollhouse.limits.bucket import UNITS
from tollhouse.limits.model import Limit, Standing

Dialect = Literal["", "openai", "anthropic"]
"""Whose own names of such headers a client knows."""

_US_PER_S = 1_000_000
_Left = tuple[int, int, int]
"""A limit by the minute, what is left of it, and the microseconds until all of it is."""


def limit_lines(standing: Sequence[Standing], dialect: Dialect, now_ms: int) -> bytes:
    """Return the header lines that tell where limits stand; none where nothing is limited.

    Args:
        now_ms: milliseconds since the Unix epoch, for whom a reset is a time of day.
    """
    if not standing:
        return b""
    if not dialect and len(standing) == 1 and _limits_calls_alone(standing[0].limit):
        return _of_calls_alone(standing[0])
    policies: list[str] = []
    states: list[str] = []
    calls = tokens = None
    for each in standing:
        scope, limit = each.key.scope, each.limit
        policies.append(_policy(scope, limit))
        if limit.requests_per_minute:
            left = _calls_left(each)
            calls = left if calls is None else min(calls, left, key=_nearness)
            states.append(f'"{scope}-requests";r={left[1]};t={_seconds(left[2])}')
        if limit.tokens_per_minute:
            left = _tokens_left(each)
            tokens = left if tokens is None else min(tokens, left, key=_nearness)
            states.append(f'"{scope}-tokens";r={left[1]};t={_seconds(left[2])}')
        if limit.concurrent_calls:
            states.append(f'"{scope}-concurrent";r={max(limit.concurrent_calls - each.running, 0)}')
    lines = [f"RateLimit-Policy: {', '.join(policies)}", f"RateLimit: {', '.join(states)}"]
    if calls is not None:
        limit_of_calls, remaining, reset_us = calls
        lines.append(
            f"RateLimit-Limit: {limit_of_calls}\r\nRateLimit-Remaining: {remaining}\r\n"
            f"RateLimit-Reset: {_seconds(reset_us)}"
        )
    if dialect:
        own = _openai if dialect == "openai" else _anthropic
        for kind, nearest in (("requests", calls), ("tokens", tokens)):
            if nearest is not None:
                lines += own(kind, nearest, now_ms)
    return ("\r\n".join(lines) + "\r\n").encode()


def _limits_calls_alone(limit: Limit) -> bool:
    return bool(limit.requests_per_minute) and not limit.tokens_per_minute and not limit.concurrent_calls


def _of_calls_alone(standing: Standing) -> bytes:
    """Write the same of what is by far the most frequent, a tenant's calls by the minute, at a third of the cost."""
    scope, limit = standing.key.scope, standing.limit
    per_minute, left, reset_us = _calls_left(standing)
    reset_s = _seconds(reset_us)
    return (
        f"RateLimit-Policy: {_policy(scope, limit)}\r\n"
        f'RateLimit: "{scope}-requests";r={left};t={reset_s}\r\n'
        f"RateLimit-Limit: {per_minute}\r\nRateLimit-Remaining: {left}\r\nRateLimit-Reset: {reset_s}\r\n"
    ).encode()


# A limit is the same for very many calls.
@lru_cache(maxsize=1024)
def _policy(scope: Scope, limit: Limit) -> str:
    policies = []
    if limit.requests_per_minute:
        policies.append(f'"{scope}-requests";q={limit.requests_per_minute};w=60;burst={limit.burst}')
    if limit.tokens_per_minute:
        policies.append(f'"{scope}-tokens";q={limit.tokens_per_minute};w=60;qu="tokens"')
    if limit.concurrent_calls:
        policies.append(f'"{scope}-concurrent";q={limit.concurrent_calls};qu="concurrent-requests"')
    return ", ".join(policies)


def _calls_left(standing: Standing) -> _Left:
    per_minute = standing.limit.requests_per_minute
    left = max(standing.limit.burst * UNITS - standing.requests_taken, 0) // UNITS
    # Clients take what is left for a part of the limit, also where a burst is more than a minute's calls.
    return per_minute, min(left, per_minute), -(-standing.requests_taken // per_minute)


def _tokens_left(standing: Standing) -> _Left:
    per_minute = standing.limit.tokens_per_minute
    left = max(per_minute * UNITS - standing.tokens_taken, 0) // UNITS
    return per_minute, left, -(-standing.tokens_taken // per_minute)


def _nearness(left: _Left) -> tuple[int, int]:
    return left[1], -left[2]


def _seconds(us: int) -> int:
    return -(-us // _US_PER_S)


def _openai(kind: str, left: _Left, now_ms: int) -> tuple[str, ...]:  # noqa: ARG001 - its resets are durations
    limit, remaining, reset_us = left
    return (
        f"x-ratelimit-limit-{kind}: {limit}",
        f"x-ratelimit-remaining-{kind}: {remaining}",
        f"x-ratelimit-reset-{kind}: {_duration(reset_us)}",
    )


def _anthropic(kind: str, left: _Left, now_ms: int) -> tuple[str, ...]:
    limit, remaining, reset_us = left
    reset_at = utc_text(now_ms + _seconds(reset_us) * 1000)
    name = f"anthropic-ratelimit-{kind}"
    return f"{name}-limit: {limit}", f"{name}-remaining: {remaining}", f"{name}-reset: {reset_at}"


def _duration(us: int) -> str:
    """Write a time as OpenAI does: 120ms, 8s, 6m0s; rounded up."""
    if us < _US_PER_S:
        return f"{-(-us // 1000)}ms"
    minutes, seconds = divmod(_seconds(us), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
