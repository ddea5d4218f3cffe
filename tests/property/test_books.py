"""The books on a real database against the plainest model of them: a list of attempts and a dictionary of caps."""

import asyncio
import copy
import itertools
import shutil
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness import engines
from harness.books import open_books, reservation, settlement
from harness.clock import FakeClock
from harness.postgres import shared_server
from tollhouse.budgets.model import BudgetKey, Reservation
from tollhouse.kit.money import nano_usd, usd
from tollhouse.kit.scopes import Scope
from tollhouse.ledger.verify import Report, verify
from tollhouse.providers.usage import Usage
from tollhouse.storage.schema import ai_budgets, ai_reservations, ai_usage_daily, ai_usage_log, ai_usage_monthly

# A failing example is made small before it is shown.
pytestmark = pytest.mark.timeout(1800)

TENANTS, USERS, FEATURES, KEYS = ("42", "43"), ("", "u", "v"), ("f", "g"), ("k", "l")
SCOPES = {"user": USERS[1:], "feature": FEATURES, "key": KEYS}

# Small amounts around small caps, so that nearly every call is decided at an edge.
CAP = st.integers(0, 200)
PICK = st.integers(0, 1000)
CALL = st.fixed_dictionaries(
    {
        "ceiling": st.integers(0, 60),
        "tenant_id": st.sampled_from(TENANTS),
        "user_id": st.sampled_from(USERS),
        "feature_slug": st.sampled_from(FEATURES),
        "key_id": st.sampled_from(KEYS),
    }
)
# The ceiling that exactly uses up what is left of the tightest cap, or misses it by one.
AT_THE_EDGE = st.fixed_dictionaries({"call": CALL, "beyond": st.sampled_from([-1, 0, 1])})
CALLS = st.lists(CALL, min_size=1, max_size=5)
PLACE = st.sampled_from(
    [
        {"scope": scope, "scope_id": scope_id, "tenant_id": tenant_id}
        for scope, ids in SCOPES.items()
        for scope_id in ids
        for tenant_id in TENANTS
    ]
)


def counted_against(made: Reservation) -> list[BudgetKey]:
    """Return the keys of the budgets that an attempt counts against, in the order they are looked at."""
    places: list[tuple[Scope, str]] = [
        ("tenant", ""),
        ("feature", made.feature_slug),
        ("key", made.key_id),
        ("user", made.user_id),
    ]
    return [
        BudgetKey("" if scope == "key" else made.tenant_id, made.billing_period, scope, scope_id)
        for scope, scope_id in places
        if scope_id or scope == "tenant"
    ]


class Attempt:
    """What the model knows of an admitted attempt: its state, and in USD what it holds or has cost."""

    def __init__(self, made):
        self.reservation = made
        self.state = "open"
        self.held, self.cost = usd(made.ceiling_nano_usd), Decimal(0)
        self.counts_against = counted_against(made)

    def end(self, state, cost=0):
        if state != "unknown":
            self.held = Decimal(0)
        self.state, self.cost = state, usd(cost)


class Model:
    """What should be in the books."""

    def __init__(self):
        self.attempts: list[Attempt] = []
        self.month = "2026-01"
        # The caps that stand, and those that are or were in force in each month; in USD.
        self.standing: dict[BudgetKey, Decimal] = {}
        self.caps: dict[BudgetKey, Decimal] = {}
        self.may_be_exceeded: set[BudgetKey] = set()
        self.closed: set[str] = set()
        self.switched_off: set[tuple[str, str]] = set()

    def set_cap(self, key, cap):
        self.standing[key._replace(billing_period="")] = self.caps[key] = cap
        if self.spoken_for(key) > cap:
            self.may_be_exceeded.add(key)

    def lift_cap(self, key):
        """Forget a cap; return whether there was one."""
        self.caps.pop(key, None)
        return self.standing.pop(key._replace(billing_period=""), None) is not None

    def begin_month(self, month):
        self.month = month
        for key, cap in self.standing.items():
            self.caps[key._replace(billing_period=month)] = cap

    def counting(self, key):
        return [attempt for attempt in self.attempts if key in attempt.counts_against]

    def posted(self, key):
        return sum((attempt.cost for attempt in self.counting(key)), Decimal(0))

    def reserved(self, key):
        return sum((attempt.held for attempt in self.counting(key)), Decimal(0))

    def spoken_for(self, key):
        return self.posted(key) + self.reserved(key)

    def capped(self, made):
        """Return the keys of the caps in force that an attempt counts against."""
        return [key for key in counted_against(made) if key in self.caps]

    def admit(self, made):
        """Decide on an attempt; return the name of what should come of it."""
        if made.tenant_id in self.closed:
            return "ModuleInactive"
        if (made.tenant_id, made.feature_slug) in self.switched_off:
            return "FeatureDisabled"
        ceiling = usd(made.ceiling_nano_usd)
        for key in self.capped(made):
            if self.spoken_for(key) + ceiling > self.caps[key]:
                return "BudgetExceeded"
        self.attempts.append(Attempt(made))
        return "Admitted"

    def settle(self, attempt, cost):
        """Post a cost; above the ceiling it is the one way past a cap."""
        is_overrun = cost > attempt.reservation.ceiling_nano_usd
        attempt.end("settled", cost)
        for key in attempt.counts_against:
            if is_overrun and key in self.caps and self.spoken_for(key) > self.caps[key]:
                self.may_be_exceeded.add(key)

    def rows(self):
        """Return how many rows of the ledger there should be, by status."""
        counts = {"settled": 0, "unknown": 0, "adjustment": 0}
        for attempt in self.attempts:
            counts["settled"] += attempt.state == "settled"
            counts["unknown"] += attempt.state in {"unknown", "resolved"}
            counts["adjustment"] += attempt.state == "resolved"
        return counts


# Where a sync costs little: a failing example is tried again hundreds of times to make it small.
MEMORY = Path("/dev/shm")


# What happens at once, in the orders in which it may seem to have happened.
AT_ONCE = ("change", "admit", "settle")


class BooksMachine(RuleBasedStateMachine):
    engine: engines.Engine = "sqlite"
    # In one transaction a change comes first, then the calls, then what ends.
    orders: Sequence[tuple[str, ...]] = (AT_ONCE,)

    def __init__(self):
        super().__init__()
        self.using = engines.using(self.engine)
        self.using.__enter__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.loop = asyncio.new_event_loop()
        self.run = self.loop.run_until_complete
        self.model = Model()
        self.clock = FakeClock("2026-01-15T12:00:00Z")
        self.lives = 0
        self.open(self.folder / "0.db")

    def open(self, path):
        self.path, self.opening = path, open_books(path, self.clock)
        self.books = self.run(self.opening.__aenter__())

    def close(self):
        self.run(self.opening.__aexit__(None, None, None))

    def teardown(self):
        self.close()
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        engines.drop_databases(self.folder)
        self.using.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def in_state(self, *states):
        return [attempt for attempt in self.model.attempts if attempt.state in states]

    def pick(self, pick, *states):
        found = self.in_state(*states)
        return found[pick % len(found)]

    def reservations(self, calls):
        at = f"{self.model.month}-15T12:00:00.000Z"
        return [
            reservation(call["ceiling"], at=at, **{k: v for k, v in call.items() if k != "ceiling"}) for call in calls
        ]

    # Rules.

    @initialize(caps=st.tuples(CAP, CAP))
    def set_up(self, caps):
        for tenant_id, cap in zip(TENANTS, caps, strict=True):
            self.set_tenant(tenant_id, cap)

    @rule(calls=CALLS)
    def admit_at_once(self, calls):
        made = self.reservations(calls)

        async def admit():
            return await asyncio.gather(*map(self.books.admit, made), return_exceptions=True)

        outcomes = [type(outcome).__name__ for outcome in self.run(admit())]
        assert outcomes == [self.model.admit(each) for each in made]

    @rule(edge=AT_THE_EDGE)
    def admit_at_the_edge(self, edge):
        (made,) = self.reservations([edge["call"]])
        left = min(self.model.caps[key] - self.model.spoken_for(key) for key in self.model.capped(made))
        ceiling = max(0, nano_usd(left) + edge["beyond"])
        self.admit_at_once([edge["call"] | {"ceiling": ceiling}])

    @rule(calls=CALLS, pick=PICK, tenant_id=st.sampled_from(TENANTS), cap=CAP, share=st.integers(0, 100))
    @precondition(lambda self: self.in_state("open"))
    def admit_settle_and_change_a_cap_at_once(self, calls, pick, tenant_id, cap, share):
        made, ending = self.reservations(calls), self.pick(pick, "open")
        cost = ending.reservation.ceiling_nano_usd * share // 100
        is_active = tenant_id not in self.model.closed

        async def everything():
            return await asyncio.gather(
                self.books.ledger.settle(settlement(ending.reservation, cost)),
                *map(self.books.admit, made),
                self.books.set_tenant(tenant_id, cap=cap, is_active=is_active),
                return_exceptions=True,
            )

        settled, *outcomes, changed = self.run(everything())
        assert (settled, changed) == (None, None)
        number, told = self.model.attempts.index(ending), [type(outcome).__name__ for outcome in outcomes]
        possible = []
        for order in self.orders:
            model, expected = copy.deepcopy(self.model), []
            for step in order:
                if step == "change":
                    model.set_cap(self.books.key(tenant_id=tenant_id), usd(cap))
                elif step == "admit":
                    expected = [model.admit(each) for each in made]
                else:
                    model.settle(model.attempts[number], cost)
            if told == expected:
                possible.append(model)
        assert possible, told
        self.model = possible[0]
        self.model.may_be_exceeded.update(*(model.may_be_exceeded for model in possible))

    @rule(pick=PICK, share=st.integers(0, 100))
    @precondition(lambda self: self.in_state("open"))
    def settle(self, pick, share):
        attempt = self.pick(pick, "open")
        self.settle_at(attempt, attempt.reservation.ceiling_nano_usd * share // 100)

    @rule(pick=PICK, above=st.integers(1, 100))
    @precondition(lambda self: self.in_state("open"))
    def settle_above_the_ceiling(self, pick, above):
        attempt = self.pick(pick, "open")
        self.settle_at(attempt, attempt.reservation.ceiling_nano_usd + above)

    def settle_at(self, attempt, cost):
        usage = Usage(input_tokens=cost, output_tokens=1, web_searches=cost % 2)
        self.run(self.books.ledger.settle(settlement(attempt.reservation, cost, usage=usage)))
        self.model.settle(attempt, cost)

    @rule(pick=PICK)
    @precondition(lambda self: self.in_state("open"))
    def release(self, pick):
        attempt = self.pick(pick, "open")
        self.run(self.books.ledger.release(attempt.reservation))
        attempt.end("released")

    @rule(pick=PICK)
    @precondition(lambda self: self.in_state("open"))
    def hold_as_unknown(self, pick):
        attempt = self.pick(pick, "open")
        self.run(self.books.ledger.hold(attempt.reservation, 1))
        attempt.end("unknown")

    @rule(pick=PICK, share=st.integers(0, 100))
    @precondition(lambda self: self.in_state("unknown"))
    def resolve(self, pick, share):
        attempt = self.pick(pick, "unknown")
        cost = attempt.reservation.ceiling_nano_usd * share // 100
        self.run(self.books.ledger.settle(settlement(attempt.reservation, cost, status="adjustment")))
        attempt.end("resolved", cost)

    @rule()
    def crash(self):
        self.open(self.end_process())
        lost = self.in_state("open")
        assert self.run(self.books.recover()) == len(lost)
        for attempt in lost:
            attempt.end("unknown")

    def end_process(self):
        """What is on the disk at this moment is all that the next process finds."""
        self.lives += 1
        after = self.folder / f"{self.lives}.db"
        shutil.copy(self.path, after)
        shutil.copy(f"{self.path}-wal", f"{after}-wal")
        self.close()
        return after

    @rule(tenant_id=st.sampled_from(TENANTS), cap=CAP)
    def set_tenant(self, tenant_id, cap):
        self.run(self.books.set_tenant(tenant_id, cap=cap, is_active=tenant_id not in self.model.closed))
        self.model.set_cap(self.books.key(tenant_id=tenant_id), usd(cap))

    @rule(place=PLACE, cap=CAP)
    def set_cap(self, place, cap):
        self.run(self.books.set_cap(cap=cap, **place))
        self.model.set_cap(self.books.key(**place), usd(cap))

    @rule(place=PLACE)
    def lift_cap(self, place):
        had_one = self.model.lift_cap(self.books.key(**place))
        assert self.run(self.books.lift_cap(**place)) == had_one

    @rule(tenant_id=st.sampled_from(TENANTS))
    def turn_module(self, tenant_id):
        self.model.closed ^= {tenant_id}
        cap = self.model.standing[BudgetKey(tenant_id, "", "tenant", "")]
        self.set_tenant(tenant_id, nano_usd(cap))

    @rule(tenant_id=st.sampled_from(TENANTS), feature_slug=st.sampled_from(FEATURES))
    def switch_feature(self, tenant_id, feature_slug):
        switch = (tenant_id, feature_slug)
        self.model.switched_off ^= {switch}
        is_enabled = switch not in self.model.switched_off
        self.run(self.books.set_feature(feature_slug, is_enabled=is_enabled, tenant_id=tenant_id))

    @rule()
    def begin_month(self):
        year, month = map(int, self.model.month.split("-"))
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        self.clock.set(f"{year}-{month:02}-15T12:00:00Z")
        self.model.begin_month(f"{year}-{month:02}")

    # What is always true.

    @invariant()
    def the_books_are_what_the_model_says(self):
        seen = self.run(self.books.database.read(look))
        self.check_budgets(seen.budgets)
        self.check_reservations(seen.reservations)
        self.check_ledger(seen.rows, seen.rolled_up)
        assert seen.report.is_consistent, msgspec.json.encode(seen.report.findings)
        assert seen.report.entries == len(seen.rows)

    def check_budgets(self, found):
        """Every budget is what the model says, and within its cap but for the two exceptions."""
        for key, (cap, posted, reserved) in found.items():
            expected = (self.model.caps.get(key), self.model.posted(key), self.model.reserved(key))
            assert (usd(cap), usd(posted), usd(reserved)) == expected, key
            assert posted + reserved <= cap or key in self.model.may_be_exceeded, key
        for key in self.model.caps.keys() - found.keys():
            assert self.model.spoken_for(key) == 0, f"{key} is capped, but nothing is counted"

    def check_reservations(self, found):
        """Exactly what was lost is held, and exactly what runs is open."""
        alive = self.in_state("open", "unknown")
        assert found == {(attempt.reservation.request_id, 1): attempt.state for attempt in alive}

    def check_ledger(self, rows, rolled_up):
        """Both rollups add up to the ledger, and the ledger to the model."""
        by_status = {status: sum(row.status == status for row in rows) for status in self.model.rows()}
        assert by_status == self.model.rows()
        billed = [row for row in rows if row.status != "unknown"]
        ledger = (sum(row.cost_nano_usd for row in billed), sum(row.total_tokens for row in billed))
        assert usd(ledger[0]) == sum((attempt.cost for attempt in self.model.attempts), Decimal(0))
        assert rolled_up == [ledger, ledger]


class Seen(msgspec.Struct):
    """What one snapshot of the books shows."""

    budgets: dict[BudgetKey, tuple[int, int, int]]
    reservations: dict[tuple[str, int], str]
    rows: list[Any]
    rolled_up: list[tuple[int, int]]
    report: Report


def look(connection):
    def totals(table):
        columns = (sa.func.coalesce(sa.func.sum(table.c[name]), 0) for name in ("cost_nano_usd", "total_tokens"))
        return tuple(connection.execute(sa.select(*columns)).one())

    return Seen(
        budgets={BudgetKey(*row[:4]): tuple(row[4:7]) for row in connection.execute(sa.select(ai_budgets))},
        reservations={
            (row.request_id, row.attempt): row.state for row in connection.execute(sa.select(ai_reservations))
        },
        rows=connection.execute(sa.select(ai_usage_log)).all(),
        rolled_up=[totals(ai_usage_monthly), totals(ai_usage_daily)],
        report=verify(connection),
    )


class PostgresBooksMachine(BooksMachine):
    engine = "postgresql"
    # Changes, calls and endings each have a transaction of their own.
    orders = tuple(itertools.permutations(AT_ONCE))

    def end_process(self):
        """Its connections end with it, and it can say nothing more."""
        name = engines.database_name(engines.database_url(self.path))
        for pid in shared_server().backend_pids(name):
            shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", pid)
        self.close()
        return self.path


TestBooks = BooksMachine.TestCase
TestBooks.settings = settings(
    max_examples=settings().max_examples // 4,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBooksOnPostgres = PostgresBooksMachine.TestCase
TestBooksOnPostgres.settings = settings(TestBooks.settings, max_examples=settings().max_examples // 12)
