"""Shares of budgets, and the agreement of what can be grouped by with what the rollups keep."""

from decimal import Decimal

import msgspec
import pytest

from tollhouse.billing.model import GroupedUsage, TotalUsage, UsageGroup
from tollhouse.billing.service import _NAMES
from tollhouse.budgets.model import percentage
from tollhouse.metering.store import GROUPINGS


@pytest.mark.parametrize(
    ("posted", "cap", "said"),
    [
        (0, 10, "0.0"),
        (3_210_000_000, 10_000_000_000, "32.1"),
        (1, 10_000_000_000, "0.0"),
        (1, 3, "33.3"),
        (2, 3, "66.7"),
        (1, 2000, "0.1"),
        (15, 10, "150.0"),
        (0, 0, "0.0"),
        (1, 0, "100.0"),
        (10**18, 10**18 - 1, "100.0"),
    ],
)
def test_shares_are_to_one_decimal(posted: int, cap: int, said: str):
    assert percentage(posted, cap) == Decimal(said)


def test_every_way_to_group_has_its_list_and_its_key():
    assert set(_NAMES) == set(GROUPINGS)
    assert {name for name, _ in _NAMES.values()} == set(GroupedUsage.__struct_fields__) - {"period", "tenant_id"}
    counts = set(TotalUsage.__struct_fields__) - {"period", "tenant_id"}
    assert {key for _, key in _NAMES.values()} == set(UsageGroup.__struct_fields__) - counts
    kept = {field.name for field in msgspec.structs.fields(UsageGroup) if field.required}
    assert kept == counts
