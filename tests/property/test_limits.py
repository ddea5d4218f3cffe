"""Limits on both engines against the plainest model of them: lists of what was taken, and a set of what runs."""

import asyncio
import itertools
import math
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import engines
from harness.books import open_books, reservation, settlement
from harness.clock import FakeClock
from tollhouse.errors import BudgetExceeded, RateLimited, TollhouseError, TooManyTokens
from tollhouse.gate.admission import Admitted
from tollhouse.limits.model import Limit, Rules
from tollhouse.providers.usage import Usage

# Waits are multiples of five seconds: a cluster's buckets go by the true time, of which less passes meanwhile.
STEP_S = 10
RATES = st.sampled_from([0, 6, 12])
LIMIT = st.builds(Limit, RATES, st.integers(1, 3), RATES, st.integers(0, 2))
RULES = st.fixed_dictionaries(dict.fromkeys(("tenant", "user", "feature", "key"), LIMIT))
WHO = st.tuples(
    st.sampled_from(["42", "43"]), st.sampled_from(["", "u", "v"]), st.sampled_from("fg"), st.sampled_from("kl")
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), WHO, st.sampled_from([2, 4, 6, 14]), st.booleans()),
        st.tuples(
            st.sampled_from(["settle", "release", "hold", "again"]), st.integers(0, 9), st.sampled_from([0, 2, 8])
        ),
        st.tuples(st.just("pass"), st.integers(1, 6)),
    ),
    min_size=5,
    max_size=25,
)


class Model:
    """What limits come to if one keeps, for each owner, how much of a bucket is taken and which calls run."""

    def __init__(self, rules):
        self.rules = rules
        self.requests, self.tokens = {}, {}
        self.running = {}

    def held(self, who):
        tenant, user, feature, key = who
        owners = [("tenant", tenant, ""), ("feature", tenant, feature), ("key", "", key)]
        owners += [("user", tenant, user)] if user else []
        return [(owner, self.rules[owner[0]]) for owner in owners if self.rules[owner[0]]]

    def wait_s(self, who, tokens):
        """Return how long a call has to wait: 0 for not at all, infinity for ever."""
        waits = [Fraction(0)]
        for owner, limit in self.held(who):
            if limit.tokens_per_minute and tokens > limit.tokens_per_minute:
                return math.inf
            if limit.requests_per_minute:
                over = self.requests.get(owner, 0) + 1 - limit.burst
                waits.append(Fraction(60 * over, limit.requests_per_minute))
            if limit.tokens_per_minute:
                over = self.tokens.get(owner, 0) + tokens - limit.tokens_per_minute
                waits.append(Fraction(60 * over, limit.tokens_per_minute))
            calls = {request_id for request_id, (by, *_) in self.running.values() if owner in by}
            if limit.concurrent_calls and len(calls) >= limit.concurrent_calls:
                waits.append(Fraction(1))
        return max(waits)

    def take(self, made, who, tokens, *, is_first):
        owners = self.held(who)
        for owner, limit in owners:
            if is_first and limit.requests_per_minute:
                self.requests[owner] = self.requests.get(owner, 0) + 1
            if limit.tokens_per_minute:
                self.tokens[owner] = self.tokens.get(owner, 0) + tokens
        self.running[made.request_id, made.attempt] = (made.request_id, ([owner for owner, _ in owners], tokens))

    def end(self, made, used):
        _, (owners, tokens) = self.running.pop((made.request_id, made.attempt))
        if used is not None:
            for owner in owners:
                if owner in self.tokens:
                    self.tokens[owner] = max(self.tokens[owner] + used - tokens, 0)

    def let_pass(self, seconds):
        for taken, rate_of in ((self.requests, "requests_per_minute"), (self.tokens, "tokens_per_minute")):
            for owner, amount in taken.items():
                drained = Fraction(seconds * getattr(self.rules[owner[0]], rate_of), 60)
                taken[owner] = max(amount - drained, Fraction(0))


async def follow(books, rules, steps):
    model = Model(rules)
    open_calls = []
    attempts = itertools.count(2)
    for tenant in ("42", "43"):
        await books.set_tenant(tenant, cap=100_000)
    for action, *step in steps:
        if action == "pass":
            await books.pass_time(step[0] * STEP_S)
            model.let_pass(step[0] * STEP_S)
        elif action == "admit":
            who, tokens, is_too_dear = step
            made = reservation(10**6 if is_too_dear else 10, **dict(zip(NAMES, who, strict=True)))
            wait_s = model.wait_s(who, tokens)
            told = await outcome(books.admit(made, tokens=tokens))
            expected: type[object] = TooManyTokens if wait_s == math.inf else RateLimited if wait_s > 0 else Admitted
            if expected is Admitted and is_too_dear:
                expected = BudgetExceeded
            assert type(told) is expected, (who, tokens, wait_s, told)
            if isinstance(told, RateLimited):
                assert told.retry_after_s == pytest.approx(float(wait_s), abs=4.9)
            if isinstance(told, Admitted):
                model.take(made, who, tokens, is_first=True)
                open_calls.append((made, who, tokens))
        elif open_calls:
            made, who, tokens = open_calls[step[0] % len(open_calls)]
            if action == "again":
                same = dict(zip(NAMES, who, strict=True)) | {"request_id": made.request_id, "attempt": next(attempts)}
                further = reservation(10, **same)
                assert isinstance(await books.admit(further, is_first=False, tokens=tokens), Admitted)
                model.take(further, who, tokens, is_first=False)
                open_calls.append((further, who, tokens))
                continue
            open_calls.remove((made, who, tokens))
            if action == "settle":
                await books.ledger.settle(settlement(made, 1, usage=Usage(input_tokens=step[1])))
            elif action == "release":
                await books.ledger.release(made)
            else:
                await books.ledger.hold(made, 3, None)
            model.end(made, {"settle": step[1], "release": 0, "hold": None}[action])


NAMES = ("tenant_id", "user_id", "feature_slug", "key_id")


async def outcome(admitting):
    try:
        return await admitting
    except TollhouseError as refusal:
        return refusal


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_both_engines_decide_as_the_model_does(engine):
    @settings(
        max_examples=max(settings().max_examples // (4 if engine == "sqlite" else 16), 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(rules=RULES, steps=STEPS)
    def holds(rules, steps):
        async def main(path):
            async with open_books(path, FakeClock(), rules=Rules(rules)) as books:
                await follow(books, rules, steps)
                assert (await books.verify()).is_consistent

        with engines.using(engine), tempfile.TemporaryDirectory() as folder:
            try:
                asyncio.run(main(Path(folder) / "books.db"))
            finally:
                engines.drop_databases(Path(folder))

    holds()
