from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.kit.money import nano_usd, usd


@pytest.mark.parametrize(
    ("amount", "nano"),
    [
        ("10", 10_000_000_000),
        (10, 10_000_000_000),
        (Decimal("0.000000001"), 1),
        ("-0.5", -500_000_000),
        ("0", 0),
        ("1e-9", 1),
        ("1E+3", 1_000_000_000_000),
        ("12345678901234567890.123456789", 12_345_678_901_234_567_890_123_456_789),
    ],
)
def test_an_amount_becomes_exact_nano_usd(amount, nano):
    assert nano_usd(amount) == nano


@pytest.mark.parametrize("amount", ["0.0000000001", "1.0000000005", "1.00000000000000000000000000000000001", "1e-400"])
def test_an_amount_finer_than_a_nano_usd_is_refused_however_long_it_is(amount):
    with pytest.raises(ValueError, match="finer than the smallest unit"):
        nano_usd(amount)


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-inf", "ten", "", "1,000"])
def test_what_is_no_finite_number_is_refused(amount):
    with pytest.raises(ValueError, match="is not an amount of money"):
        nano_usd(amount)


@given(st.integers(-(2**63), 2**63 - 1))
def test_nano_usd_and_usd_are_inverse_over_all_that_a_column_holds(amount):
    assert nano_usd(usd(amount)) == amount


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0"), (10_000_000_000, "10"), (597_600, "0.0005976"), (2_500_000_000, "2.5")]
)
def test_an_amount_is_shown_without_trailing_zeros(nano, text):
    assert str(usd(nano)) == text
