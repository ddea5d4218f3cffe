"""Limits in the admitting transaction, on each engine."""

import asyncio

import pytest
import sqlalchemy as sa

from harness.books import reservation, run_on_books, run_on_two, settlement
from tollhouse.errors import BudgetExceeded, InternalError, RateLimited, TooManyTokens
from tollhouse.gate.admission import Admitted, Replay
from tollhouse.idempotency.model import claim
from tollhouse.limits.model import SCOPES, Limit, Rules
from tollhouse.providers.usage import Usage
from tollhouse.storage.schema import ai_limits

NONE = Limit()
pytestmark = pytest.mark.usefixtures("on_each_engine")


def rules(tiers=None, **scopes):
    return Rules({scope: scopes[scope] for scope in SCOPES if scope in scopes}, tiers)


async def refused(books, match, **call):
    with pytest.raises(RateLimited, match=match) as caught:
        await books.reserve(**call)
    return caught.value


async def own(books, tenant_id, scope, scope_id, **limits):
    values = {"tenant_id": tenant_id, "scope": scope, "scope_id": scope_id, "updated_at": "now", **limits}
    insert = sa.insert(ai_limits).values(**values)
    await books.database.write(lambda connection: connection.execute(insert).close())


def used(made, tokens):
    return settlement(made, 5, usage=Usage(input_tokens=tokens))


@pytest.mark.parametrize(
    ("scope", "same", "other", "whose"),
    [
        ("tenant", {"user_id": "v", "feature_slug": "g"}, {"tenant_id": "43"}, "tenant 42"),
        ("user", {"feature_slug": "g", "key_id": "l"}, {"user_id": "v"}, "user u of tenant 42"),
        ("feature", {"user_id": "v", "key_id": "l"}, {"feature_slug": "g"}, "feature f of tenant 42"),
        ("key", {"tenant_id": "43", "user_id": "v"}, {"key_id": "l"}, "service key k"),
    ],
)
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(1, 1), "its rate limit of 1 calls a minute; try again in 60 s"),
        (Limit(tokens_per_minute=60), "its limit of 60 tokens a minute; try again in [34]. s"),
        (Limit(concurrent_calls=1), "its limit of 1 calls at the same time; try again in 1 s"),
    ],
)
def test_each_kind_of_limit_holds_for_each_kind_of_owner_and_for_nobody_else(
    tmp_path, scope, same, other, whose, limit, said
):
    async def scenario(books):
        await books.set_tenant("42")
        await books.set_tenant("43")
        await books.reserve(tokens=50)
        await refused(books, f"^{whose} has reached {said}", tokens=50, **same)
        await books.reserve(tokens=50, **other)

    run_on_books(tmp_path, scenario, rules=rules(**{scope: limit}))


def test_a_call_without_a_user_is_held_by_no_users_limit(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for _ in range(3):
            await books.reserve(user_id="")

    run_on_books(tmp_path, scenario, rules=rules(user=Limit(1, 1, 1, 1)))


def test_tokens_left_over_come_back_with_the_settlement_and_those_on_top_are_owed(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = await books.reserve(tokens=60)
        await refused(books, "60 tokens", tokens=30)
        await books.ledger.settle(used(first, 10))
        second = await books.reserve(tokens=50)
        await refused(books, "60 tokens", tokens=1)
        await books.ledger.settle(used(second, 110))
        assert (await refused(books, "60 tokens", tokens=60)).retry_after_s == pytest.approx(120, abs=20)
        await books.pass_time(121)
        await books.reserve(tokens=60)

    run_on_books(tmp_path, scenario, tokens_per_minute=60)


def test_a_call_that_is_released_gives_all_its_tokens_back_and_one_of_unknown_outcome_none(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        released = await books.reserve(tokens=60)
        await books.ledger.release(released)
        held = await books.reserve(tokens=60)
        await books.ledger.hold(held, 3, None)
        await refused(books, "60 tokens", tokens=30)

    run_on_books(tmp_path, scenario, tokens_per_minute=60)


def test_a_call_that_never_fits_is_told_so_and_not_to_try_again(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        with pytest.raises(TooManyTokens, match="this call may use 61 tokens, but user u of tenant 42 has 60") as told:
            await books.reserve(tokens=61)
        assert told.value.retry_after_s is None
        await books.reserve(tokens=60)

    run_on_books(tmp_path, scenario, rules=rules(tenant=Limit(100, 1), user=Limit(tokens_per_minute=60)))


@pytest.mark.parametrize("end", ["settle", "release", "hold"])
def test_a_slot_is_free_once_its_call_has_ended_however_it_did(tmp_path, end):
    async def scenario(books):
        await books.set_tenant()
        made = await books.reserve()
        await books.reserve()
        await refused(books, "2 calls at the same time")
        if end == "settle":
            await books.ledger.settle(settlement(made, 5))
        elif end == "release":
            await books.ledger.release(made)
        else:
            await books.ledger.hold(made, 3, None)
        await books.reserve()
        await refused(books, "2 calls at the same time")

    run_on_books(tmp_path, scenario, concurrent_calls=2)


def test_a_call_that_is_hedged_or_falls_back_counts_once(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        first = await books.reserve()
        second = reservation(request_id=first.request_id, attempt=2)
        assert isinstance(await books.admit(second, is_first=False), Admitted)
        await books.reserve()
        await refused(books, "2 calls at the same time")
        await books.ledger.release(first)
        await refused(books, "2 calls at the same time")
        third = reservation(request_id=first.request_id, attempt=3)
        await books.ledger.release(second)
        assert isinstance(await books.admit(third, is_first=False), Admitted)
        await refused(books, "2 calls at the same time")
        await books.ledger.release(third)
        await books.reserve()

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=3, concurrent_calls=2)


def test_calls_admitted_together_stop_at_the_limit(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=10**9)
        admitting = [books.admit(reservation(), tokens=20) for _ in range(10)]
        outcomes = await asyncio.gather(*admitting, return_exceptions=True)
        assert [type(each) for each in outcomes] == [Admitted] * 3 + [RateLimited] * 7
        assert all(each.standing[0].tokens_taken for each in outcomes if isinstance(each, Admitted | RateLimited))

    run_on_books(tmp_path, scenario, tokens_per_minute=60, concurrent_calls=5)


def test_a_refusal_for_another_reason_uses_nothing_up(tmp_path):
    async def scenario(books):
        await books.set_tenant(cap=1000)
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                await books.reserve(2000, tokens=60)
        await books.reserve(tokens=1, user_id="slow")
        for _ in range(3):
            await refused(books, "1 calls a minute", tokens=1, user_id="slow")
        await books.reserve(tokens=59)

    limits = rules(tenant=Limit(6, 2, 60, 2), user=Limit(1, 1))
    run_on_books(tmp_path, scenario, rules=limits)


def test_what_is_rolled_back_uses_nothing_up(tmp_path):
    """One call of a batch breaks a rule of the schema: the others are decided again, each by itself."""

    async def scenario(books):
        await books.set_tenant(cap=10**9)
        first = reservation()
        admitting = [books.admit(each, tokens=20) for each in (first, reservation(), first)]
        outcomes = await asyncio.gather(*admitting, return_exceptions=True)
        assert [type(each) for each in outcomes] == [Admitted, Admitted, InternalError]
        third = await books.reserve(tokens=20)
        await refused(books, "60 tokens", tokens=20)
        await refused(books, "3 calls at the same time")
        settling = [books.ledger.settle(used(each, 0)) for each in (third, third)]
        ended = await asyncio.gather(*settling, return_exceptions=True)
        assert [type(each) for each in ended] == [type(None), InternalError]
        again = [books.admit(each, tokens=20) for each in (first, reservation())]
        outcomes = await asyncio.gather(*again, return_exceptions=True)
        assert [type(each) for each in outcomes] == [InternalError, Admitted]
        await refused(books, "60 tokens", tokens=20)
        await refused(books, "3 calls at the same time")

    run_on_books(tmp_path, scenario, requests_per_minute=60, burst=20, tokens_per_minute=60, concurrent_calls=3)


def test_a_replayed_answer_uses_nothing_up(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        kept = claim("th_secret", "order-7", b"body", "2026-04-11T12:00:00.000Z")
        made = reservation()
        await books.admit(made, kept, tokens=30)
        await books.ledger.settle(
            settlement(made, 5, usage=Usage(input_tokens=30), claim=kept, sealed_answer=b"sealed")
        )
        for _ in range(3):
            assert isinstance(await books.admit(reservation(), kept, tokens=30), Replay)
        await books.reserve(tokens=30)
        await refused(books, "2 calls a minute", tokens=0)

    run_on_books(tmp_path, scenario, requests_per_minute=2, burst=2, tokens_per_minute=60)


def test_a_tiers_limits_take_the_place_of_the_others_and_a_change_of_tier_holds_at_once(tmp_path):
    async def scenario(books):
        await books.set_tenant(tier="small")
        await books.reserve()
        await refused(books, "tenant 42 has reached its limit of 1 calls at the same time")
        await books.set_tenant(tier="large")
        await books.reserve()
        await books.reserve(user_id="v")
        await refused(books, "user u of tenant 42 has reached its limit of 2 calls at the same time")

    tiers = {"large": {"tenant": NONE, "user": Limit(concurrent_calls=2)}}
    run_on_books(tmp_path, scenario, rules=rules(tiers, tenant=Limit(concurrent_calls=1)))


def test_limits_of_ones_own_take_the_place_of_the_configured_and_hold_from_the_next_call(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.reserve()
        await books.reserve()
        await own(books, "42", "tenant", "", concurrent_calls=2)
        await own(books, "42", "user", "v", requests_per_minute=1, burst=1)
        await refused(books, "tenant 42 has reached its limit of 2 calls at the same time")
        change = sa.update(ai_limits).where(ai_limits.c.scope == "tenant").values(concurrent_calls=0)
        await books.database.write(lambda connection: connection.execute(change).close())
        await books.reserve(user_id="v")
        await refused(books, "user v of tenant 42 has reached its rate limit of 1 calls a minute", user_id="v")

    run_on_books(tmp_path, scenario, requests_per_minute=60, burst=20)


def test_what_is_taken_stays_taken_when_a_limit_is_lowered(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for _ in range(5):
            await books.reserve()
        await own(books, "42", "tenant", "", requests_per_minute=6, burst=2)
        assert (await refused(books, "6 calls a minute")).retry_after_s == pytest.approx(40, abs=9)

    run_on_books(tmp_path, scenario, requests_per_minute=6, burst=20)


def test_a_limit_on_calls_in_a_new_month_goes_on(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        months = ["2026-03", "2026-04"] * 2
        admitting = [books.admit(reservation(billing_period=month)) for month in months]
        outcomes = await asyncio.gather(*admitting, return_exceptions=True)
        assert [type(each) for each in outcomes] == [Admitted] * 3 + [RateLimited]

    run_on_books(tmp_path, scenario, requests_per_minute=1, burst=3)


@pytest.mark.engine("postgresql")
def test_two_instances_share_every_limit(tmp_path):
    async def scenario(one, other):
        await one.set_tenant(cap=10**9)
        await one.set_tenant("43", cap=10**9)

        async def at_once(books):
            made = [reservation(tenant_id=tenant) for tenant in ("42", "43") * 10]
            return await asyncio.gather(*[books.admit(each) for each in made], return_exceptions=True)

        outcomes = [each for half in await asyncio.gather(at_once(one), at_once(other)) for each in half]
        assert sum(isinstance(each, Admitted) for each in outcomes) == 7
        assert sum(isinstance(each, RateLimited) for each in outcomes) == 33

    run_on_two(tmp_path, scenario, rules=rules(key=Limit(concurrent_calls=7)))
