"""Money is an integer number of nano-USD (10⁻⁹ USD). A float never holds it."""

from decimal import ROUND_HALF_EVEN, Decimal

NANO_USD_PER_USD = 1_000_000_000


def nano_usd(usd: Decimal | int | str) -> int:
    """Return an amount in USD as integer nano-USD.

    Raises:
        ValueError: the amount is not a finite number, or is finer than one nano-USD.
    """
    amount = Decimal(usd) * NANO_USD_PER_USD
    if not amount.is_finite():
        raise ValueError(f"{usd} is not an amount of money")
    whole = amount.to_integral_value(ROUND_HALF_EVEN)
    if whole != amount:
        raise ValueError(f"{usd} USD is finer than the smallest unit, 0.000000001 USD")
    return int(whole)


def usd(amount_nano_usd: int) -> Decimal:
    """Return nano-USD as an exact amount in USD, for JSON and for people.

    >>> str(usd(597_600))
    '0.0005976'
    """
    amount = Decimal(amount_nano_usd).scaleb(-9)
    # Trailing zeros go, but 10 stays "10" rather than the "1E+1" that normalize() would make of it.
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount.normalize()
