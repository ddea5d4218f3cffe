"""What a tenant's module becomes, against a plain rule: the budget is its own once given one, else its tier's."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.admin.change import cap_nano_usd
from tollhouse.admin.merging import Tiers
from tollhouse.admin.model import TenantChanges
from tollhouse.errors import InvalidRequest

TIERS = Tiers({"starter": 2, "growth": 10, "enterprise": 50}, "starter")
NOW = "2026-04-04T10:53:20.000Z"

changes = st.fixed_dictionaries(
    {},
    optional={
        "tier": st.sampled_from(["starter", "growth", "enterprise"]),
        "budget_usd": st.none() | st.integers(0, 100).map(Decimal),
        "is_active": st.booleans(),
        "name": st.sampled_from(["", "Acme"]),
        "expires_at": st.none() | st.just(datetime(2030, 1, 1, tzinfo=UTC)),
    },
)


@given(st.lists(changes, max_size=6))
def test_any_series_of_changes_ends_where_the_rule_says(series: list[dict[str, Any]]):
    module = TIERS.new_module("42", NOW)
    expected: dict[str, Any] = {"tier": "starter", "own": None, "is_active": False, "name": "", "expires_at": None}
    for each in series:
        module = TIERS.merged(module, TenantChanges(**each))
        expected |= {name: value for name, value in each.items() if name in expected}
        if "budget_usd" in each:
            expected["own"] = each["budget_usd"]
        own = expected["own"]
        assert module.has_own_budget is (own is not None)
        budget = TIERS.budgets_nano_usd[expected["tier"]] if own is None else int(own * 10**9)
        assert module.budget_nano_usd == budget
        assert (module.tier, module.is_active, module.name) == tuple(
            expected[name] for name in ("tier", "is_active", "name")
        )
        assert module.expires_at == (expected["expires_at"] and "2030-01-01T00:00:00.000Z")


def test_a_tenant_of_a_tier_that_is_gone_can_still_be_changed_but_not_ask_for_its_budget():
    module = Tiers({"legacy": 7}, "legacy").new_module("42", NOW)
    renamed = TIERS.merged(module, TenantChanges(name="Acme"))
    assert (renamed.tier, renamed.budget_nano_usd) == ("legacy", 7)
    own = TIERS.merged(renamed, TenantChanges(budget_usd=Decimal(3)))
    with pytest.raises(InvalidRequest, match="tier: no tier 'legacy' is configured"):
        TIERS.merged(own, TenantChanges(budget_usd=None))
    assert TIERS.merged(own, TenantChanges(tier="growth", budget_usd=None)).budget_nano_usd == 10


@pytest.mark.parametrize("text", ["0", "-0", "0.000000001", "10.0000000000000000000000000000000000", "1e9", "1e-9"])
def test_amounts_of_whole_nano_dollars_are_taken_exactly(text: str):
    assert cap_nano_usd(Decimal(text)) == int(Decimal(text).scaleb(9))


@pytest.mark.parametrize(
    "text",
    [
        "-1e-9",
        "1000000000.000000001",
        "0.0000000001",
        # Rounded to the 28 digits of a default context, this would be a whole nano-dollar.
        "0.00000000100000000000000000000000000000000001",
        "1e-999999",
        "1e999999",
        "NaN",
        "sNaN",
        "-Infinity",
    ],
)
def test_other_amounts_are_refused(text: str):
    with pytest.raises(InvalidRequest, match=r"^budget_usd: expected"):
        cap_nano_usd(Decimal(text))
