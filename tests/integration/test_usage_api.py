"""Reading usage over real HTTP, from rows that real settlements wrote."""

from decimal import Decimal

import pytest

GROUPINGS = {
    "user": "users",
    "feature": "features",
    "model": "models",
    "provider": "providers",
    "service": "services",
    "day": "days",
}
COUNTS = {
    "calls",
    "tokens",
    "cost_usd",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "media_tokens",
    "unknown_calls",
    "unknown_usd",
}


@pytest.fixture(scope="module")
def used(plane):
    """Tenant 42 with five calls, one of an unknown outcome; tenant acme with one."""
    plane.tenant(42, tier="growth")
    plane.tenant("acme")
    plane.tenant("idle", budget_usd=5)
    plane.call(cost=100_000_001)
    plane.call(cost=200_000_000, user_id="u-7", model="gpt-4o-mini")
    plane.call(cost=50_000_000, user_id="", feature="chat", service="support")
    plane.call(cost=1, user_id="101", feature="chat")
    plane.call(cost=400_000_000, ceiling=400_000_000, user_id="u-7", status="unknown")
    plane.call("acme", cost=500_000_000)
    return plane


def test_without_grouping_there_is_one_total(used):
    answer = used("GET", "/ai/usage?tenant_id=42&period=2026-04")
    assert answer.status == 200
    assert answer.json == {
        "period": "2026-04",
        "tenant_id": 42,
        "calls": 4,
        "tokens": 4 * (399 + 11),
        "cost_usd": Decimal("0.350000002"),
        "input_tokens": 4 * 300,
        "cached_input_tokens": 4 * 12,
        "cache_write_tokens": 0,
        "output_tokens": 4 * 80,
        "reasoning_tokens": 4 * 7,
        "media_tokens": 4 * 11,
        "unknown_calls": 1,
        "unknown_usd": Decimal("0.4"),
    }


def test_users_come_back_as_the_integers_they_were_the_costliest_first(used):
    answer = used("GET", "/ai/usage?tenant_id=42&group_by=user").json
    assert set(answer) == {"period", "tenant_id", "users"}
    users = [(user["user_id"], user["calls"], user["cost_usd"], user["unknown_calls"]) for user in answer["users"]]
    assert users == [
        ("u-7", 1, Decimal("0.2"), 1),
        (101, 2, Decimal("0.100000002"), 0),
        (None, 1, Decimal("0.05"), 0),
    ]


@pytest.mark.parametrize(
    ("group_by", "key", "expected"),
    [
        ("feature", "feature_slug", {"summary": 2, "chat": 2}),
        ("model", "model", {"claude-haiku-4-5": 3, "gpt-4o-mini": 1}),
        ("provider", "provider", {"anthropic": 4}),
        ("service", "service", {"sales": 3, "support": 1}),
        ("day", "day", {"2026-04-04": 4}),
    ],
)
def test_every_grouping_names_its_list_and_its_key(used, group_by, key, expected):
    answer = used("GET", f"/ai/usage?tenant_id=42&group_by={group_by}").json
    assert set(answer) == {"period", "tenant_id", GROUPINGS[group_by]}
    groups = answer[GROUPINGS[group_by]]
    assert {group[key]: group["calls"] for group in groups} == expected
    assert all(set(group) == {key, *COUNTS} for group in groups)


@pytest.mark.parametrize("group_by", GROUPINGS)
def test_the_groups_add_up_to_the_total(used, group_by):
    total = used("GET", "/ai/usage?tenant_id=42").json
    groups = used("GET", f"/ai/usage?tenant_id=42&group_by={group_by}").json[GROUPINGS[group_by]]
    assert {count: sum(group[count] for group in groups) for count in COUNTS} == {c: total[c] for c in COUNTS}


def test_a_month_without_calls_is_empty(used):
    assert used("GET", "/ai/usage?tenant_id=42&period=2025-12").json["calls"] == 0
    assert used("GET", "/ai/usage?tenant_id=42&period=2025-12&group_by=user").json["users"] == []


@pytest.mark.parametrize("period", ["2026", "2026-13", "2026-00", "2026-4", "2026-04-01", "april", "", "٢٠٢٦-٠٤"])
@pytest.mark.parametrize("path", ["/ai/usage?tenant_id=42&", "/ai/usage/tenants?"])
def test_what_is_no_month_is_refused_with_what_was_expected(used, path, period):
    from urllib.parse import quote

    answer = used("GET", f"{path}period={quote(period)}")
    assert answer.status == 422
    assert answer.error == ("ai_invalid_request", "period: expected a calendar month as YYYY-MM, such as 2026-04")


def test_what_cannot_be_grouped_by_is_refused_with_what_can(used):
    answer = used("GET", "/ai/usage?tenant_id=42&group_by=usr")
    assert answer.status == 422
    said = "group_by: expected one of user, feature, model, provider, service, day, or nothing for one total"
    assert answer.error[1] == said


# Who may read what.


@pytest.mark.parametrize("role", ["service", "reader", "super-admin"])
def test_every_role_may_read_usage(used, role):
    key = used.new_key(role=role)["key"]
    assert used("GET", "/ai/usage?tenant_id=42", key=key).json["calls"] == 4


@pytest.mark.parametrize("role", ["service", "reader"])
def test_a_bound_key_reads_its_own_tenants_alone(used, role):
    key = used.new_key(role=role, tenants=[42])["key"]
    assert used("GET", "/ai/usage?tenant_id=42", key=key).json["calls"] == 4
    assert used("GET", "/ai/usage", key=key).json["calls"] == 4
    for foreign in ("acme", "idle", "nobody", "0", "042"):
        answer = used("GET", f"/ai/usage?tenant_id={foreign}", key=key)
        assert (answer.status, answer.error[0]) == (403, "ai_tenant_forbidden")


def test_a_key_of_several_tenants_has_to_say_which(used):
    key = used.new_key(tenants=[42, "acme"])["key"]
    assert used("GET", "/ai/usage?tenant_id=acme", key=key).json["calls"] == 1
    answer = used("GET", "/ai/usage", key=key)
    said = "tenant_id: is required, as this key is not bound to one tenant"
    assert answer.error == ("ai_invalid_request", said)


def test_without_a_key_nobody_reads_anything(used):
    for path in ("/ai/usage", "/ai/usage?tenant_id=42", "/ai/usage/tenants", "/ai/usage?period=x"):
        assert used("GET", path, key=None).error[0] == "ai_unauthorized"


@pytest.mark.parametrize("tenant_id", ["", "x" * 65, "a%00", "%0A"])
def test_a_tenant_that_cannot_be_is_refused(used, tenant_id):
    answer = used("GET", f"/ai/usage?tenant_id={tenant_id}")
    assert answer.error == ("ai_invalid_request", "tenant_id: expected 1 to 64 printable characters")


# All tenants.


def test_the_running_months_spending_covers_every_tenant(used):
    answer = used("GET", "/ai/usage/tenants")
    assert answer.json == [
        {
            "tenant_id": 42,
            "tier": "growth",
            "budget_usd": 10,
            "spent_usd": Decimal("0.350000002"),
            "pct_used": Decimal("3.5"),
            "reserved_usd": Decimal("0.4"),
        },
        {
            "tenant_id": "acme",
            "tier": "starter",
            "budget_usd": 2,
            "spent_usd": Decimal("0.5"),
            "pct_used": 25,
            "reserved_usd": 0,
        },
        {
            "tenant_id": "idle",
            "tier": "starter",
            "budget_usd": 5,
            "spent_usd": 0,
            "pct_used": 0,
            "reserved_usd": 0,
        },
    ]


def test_another_months_spending_covers_those_whose_month_it_was(used):
    assert used("GET", "/ai/usage/tenants?period=2026-03").json == []
    assert used("GET", "/ai/usage/tenants?period=2026-05").json == []


def test_spending_of_all_tenants_is_for_super_admins(used):
    for role in ("service", "reader"):
        for tenants in (None, [42]):
            answer = used("GET", "/ai/usage/tenants", key=used.new_key(role=role, tenants=tenants)["key"])
            assert (answer.status, answer.error[0]) == (403, "ai_forbidden")
    assert used("GET", "/ai/usage/tenants", key=used.new_key(role="super-admin")["key"]).status == 200
