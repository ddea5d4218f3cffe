import msgspec
import pytest

from harness.books import run_on_books, settlement
from tollhouse.metering.store import GROUPINGS, Spending, UsageSum, spending, usage
from tollhouse.providers.usage import Usage

USED = Usage(1, 20, 300, 4000, 50_000, 600_000)


async def spend(books, cost, **changes):
    await books.ledger.settle(settlement(await books.reserve(100, **changes), cost, usage=USED))


def usage_of(books, group_by, tenant_id="42", period="2026-04"):
    return books.database.read(lambda connection: usage(connection, tenant_id, period, group_by))


def test_a_months_usage_is_one_total_in_which_unknown_calls_stand_apart(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await books.set_tenant("43")
        for cost in (10, 20):
            await spend(books, cost)
        await spend(books, 70, tenant_id="43")
        await books.ledger.hold(await books.reserve(90), 1)
        await books.reserve(100)
        assert await usage_of(books, None) == [
            UsageSum("", 2, 2, 40, 8600, 100_000, 1_200_000, 1_308_642, 30, 1, 90),
        ]

    run_on_books(tmp_path, scenario)


def test_sound_and_pictures_are_what_the_other_classes_leave_of_the_total(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        await spend(books, 10)
        media = Usage(3, audio_input_tokens=4, image_input_tokens=50, audio_output_tokens=600, image_output_tokens=7000)
        made = await books.reserve(100, user_id="v")
        await books.ledger.settle(settlement(made, 10, usage=msgspec.structs.replace(media, web_searches=9)))
        for group_by in (None, "day", "model"):
            (found,) = await usage_of(books, group_by)
            assert (found.total_tokens, found.media_tokens, found.input_tokens) == (654_321 + 7657, 7654, 4)
        assert {each.group: each.media_tokens for each in await usage_of(books, "user")} == {"u": 0, "v": 7654}

    run_on_books(tmp_path, scenario)


def test_a_month_without_calls_is_a_total_of_nothing(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        assert await usage_of(books, None) == [UsageSum("", *[0] * 10)]
        assert await usage_of(books, "user") == []
        await spend(books, 10)
        assert (await usage_of(books, None, period="2026-05"))[0].calls == 0

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(
    ("group_by", "changes"),
    [
        ("user", {"user_id": "v"}),
        ("feature", {"feature_slug": "v"}),
        ("model", {"model": "v"}),
        ("provider", {"provider": "v"}),
        ("service", {"service": "v"}),
    ],
)
def test_usage_is_grouped_dearest_first(tmp_path, group_by, changes):
    async def scenario(books):
        await books.set_tenant()
        await spend(books, 10)
        for _ in range(2):
            await spend(books, 30, **changes)
        (first, second) = await usage_of(books, group_by)
        assert (first.group, first.calls, first.cost_nano_usd) == ("v", 2, 60)
        assert (second.calls, second.cost_nano_usd) == (1, 10)

    run_on_books(tmp_path, scenario)


def test_days_come_in_their_order(tmp_path):
    async def scenario(books):
        await books.set_tenant()
        for day, cost in ((3, 10), (1, 20), (2, 5)):
            books.clock.set(f"2026-04-0{day}T12:00:00Z")
            await spend(books, cost)
        days = [(day.group, day.cost_nano_usd) for day in await usage_of(books, "day")]
        assert days == [("2026-04-01", 20), ("2026-04-02", 5), ("2026-04-03", 10)]

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("group_by", sorted(GROUPINGS))
def test_every_grouping_adds_up_to_the_total(tmp_path, group_by):
    async def scenario(books):
        await books.set_tenant()
        for cost, changes in enumerate([{}, {"user_id": ""}, {"model": "m"}, {"feature_slug": "g"}, {"service": "s"}]):
            await spend(books, cost, **changes)
        await books.ledger.hold(await books.reserve(90), 1)
        (total,) = await usage_of(books, None)
        groups = await usage_of(books, group_by)
        for name in UsageSum.__struct_fields__[1:]:
            assert sum(getattr(group, name) for group in groups) == getattr(total, name)

    run_on_books(tmp_path, scenario)


def test_spending_is_each_tenants_own_budget_of_the_month(tmp_path):
    async def scenario(books):
        for tenant_id in ("idle", "43", "42"):
            books.clock.set("2026-03-01T00:00:00Z" if tenant_id == "idle" else "2026-04-10T12:00:00Z")
            await books.set_tenant(tenant_id, cap=500)
        await books.set_cap("user", "u", 400)
        await spend(books, 30)
        await books.reserve(100)

        def look(with_idle_tenants):
            return books.database.read(
                lambda connection: spending(connection, "2026-04", with_idle_tenants=with_idle_tenants)
            )

        begun = [Spending("42", "growth", 500, 30, 100), Spending("43", "growth", 500, 0, 0)]
        assert await look(with_idle_tenants=False) == begun
        assert await look(with_idle_tenants=True) == [*begun, Spending("idle", "growth", 500, 0, 0)]

    run_on_books(tmp_path, scenario)
