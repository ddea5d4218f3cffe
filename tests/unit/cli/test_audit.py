import pytest

from tollhouse.cli.audit import _change


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"is_active": False}, {"is_active": True}, "is_active: false → true"),
        ({"name": "", "tier": "a"}, {"name": "Acme", "tier": "a"}, "name: Acme"),
        ({"expires_at": "2030"}, {"expires_at": None}, "expires_at: 2030 → none"),
        ({"budget_nano_usd": 1_500_000_000}, {"budget_nano_usd": 2_000_000_001}, "budget: $1.50 → $2.000000001"),
        (None, {"cap_nano_usd": 0}, "cap: $0.00"),
        (None, {"tenants": ["42"], "feature_slug": "", "revoked_at": None}, 'tenants: ["42"]'),
        ({"updated_at": "x"}, {"updated_at": "y"}, ""),
        ({"cap_nano_usd": 5}, None, "removed"),
        ("primary", "fallback", "fallback"),
    ],
)
def test_a_change_is_told_by_what_differs_with_amounts_in_dollars(before, after, said):
    assert _change({"before": before, "after": after}) == said
