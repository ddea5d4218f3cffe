from tollhouse.limits.bucket import UNITS
from tollhouse.limits.headers import limit_lines
from tollhouse.limits.model import Limit, LimitKey, Standing

TENANT = Standing(LimitKey("42", "tenant", ""), Limit(100, 20, 6000, 3), 1 * UNITS, 1500 * UNITS, 2)
USER = Standing(LimitKey("42", "user", "u"), Limit(6, 2), 2 * UNITS, 0, 0)
NOW_MS = 1_775_000_000_000


def lines(*standing, dialect=""):
    text = limit_lines(standing, dialect, NOW_MS).decode()
    assert not text or text.endswith("\r\n")
    return dict(line.split(": ", 1) for line in text.split("\r\n") if line)


def test_each_limit_has_its_policy_and_what_is_left_and_the_nearest_one_the_older_names():
    assert lines(TENANT, USER) == {
        "RateLimit-Policy": '"tenant-requests";q=100;w=60;burst=20, "tenant-tokens";q=6000;w=60;qu="tokens", '
        '"tenant-concurrent";q=3;qu="concurrent-requests", "user-requests";q=6;w=60;burst=2',
        "RateLimit": '"tenant-requests";r=19;t=1, "tenant-tokens";r=4500;t=15, "tenant-concurrent";r=1, '
        '"user-requests";r=0;t=20',
        "RateLimit-Limit": "6",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "20",
    }


def test_openais_clients_are_told_by_their_names():
    own = {name: value for name, value in lines(TENANT, dialect="openai").items() if name.startswith("x-ratelimit-")}
    assert own == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "19",
        "x-ratelimit-reset-requests": "600ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15s",
    }


def test_anthropics_clients_are_told_by_their_names_and_the_time_of_day():
    own = {name: value for name, value in lines(TENANT, dialect="anthropic").items() if name.startswith("anthropic-")}
    assert own == {
        "anthropic-ratelimit-requests-limit": "100",
        "anthropic-ratelimit-requests-remaining": "19",
        "anthropic-ratelimit-requests-reset": "2026-03-31T23:33:21.000Z",
        "anthropic-ratelimit-tokens-limit": "6000",
        "anthropic-ratelimit-tokens-remaining": "4500",
        "anthropic-ratelimit-tokens-reset": "2026-03-31T23:33:35.000Z",
    }


def test_what_is_owed_leaves_nothing_and_a_long_wait_is_told_in_minutes():
    owing = Standing(TENANT.key, Limit(0, 1, 60, 0), 0, 125 * UNITS, 0)
    told = lines(owing, dialect="openai")
    assert (told["x-ratelimit-remaining-tokens"], told["x-ratelimit-reset-tokens"]) == ("0", "2m5s")
    assert "RateLimit-Limit" not in told, "it is of calls, and they are not limited"


def test_a_burst_of_more_than_a_minutes_calls_is_not_more_than_the_limit():
    told = lines(Standing(TENANT.key, Limit(6, 50), 0, 0, 0))
    assert (told["RateLimit-Limit"], told["RateLimit-Remaining"]) == ("6", "6")


def test_without_limits_there_are_no_lines():
    assert limit_lines((), "openai", NOW_MS) == b""
