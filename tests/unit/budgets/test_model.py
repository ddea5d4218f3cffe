import pytest

from harness.books import reservation
from tollhouse.budgets.model import Budget, BudgetKey, budget_keys


def test_a_call_counts_against_its_tenant_its_feature_its_key_and_its_user():
    assert reservation(tenant_id="42", user_id="u", feature_slug="f", key_id="k").budget_keys() == (
        BudgetKey("42", "2026-04", "tenant", ""),
        BudgetKey("42", "2026-04", "feature", "f"),
        BudgetKey("", "2026-04", "key", "k"),
        BudgetKey("42", "2026-04", "user", "u"),
    )


def test_a_call_for_nobody_in_particular_counts_against_no_user():
    keys = budget_keys("42", "2026-04", "", "f", "k")
    assert [key.scope for key in keys] == ["tenant", "feature", "key"]


def test_the_tenants_own_budget_comes_first():
    # Reading it opens the month for all the caps below it.
    assert budget_keys("42", "2026-04", "u", "f", "k")[0].scope == "tenant"


@pytest.mark.parametrize(("posted", "reserved", "left"), [(0, 0, 10), (3, 4, 3), (4, 6, 0), (10, 5, -5)])
def test_what_is_left_is_the_cap_without_what_is_spent_and_spoken_for(posted, reserved, left):
    assert Budget(10, posted, reserved).left_nano_usd == left


@pytest.mark.parametrize(
    ("key", "description"),
    [
        (BudgetKey("42", "2026-04", "tenant", ""), "tenant 42"),
        (BudgetKey("", "2026-04", "key", "key_1"), "service key key_1"),
        (BudgetKey("42", "2026-04", "user", "u"), "user u of tenant 42"),
        (BudgetKey("42", "2026-04", "feature", "f"), "feature f of tenant 42"),
    ],
)
def test_a_budget_is_named_in_words(key, description):
    assert key.describe() == description
