"""Money is an integer number of nano-USD (10⁻⁹ USD). A float never holds it."""

from decimal import Decimal, InvalidOperation

NANO_USD_PER_USD = 1_000_000_000


def nano_usd(usd: Decimal | int | str) -> int:
    """Return an amount in USD as integer nano-USD.

    Raises:
        ValueError: the amount is not a finite number, or is finer than one nano-USD.
    """
    try:
        numerator, denominator = Decimal(usd).as_integer_ratio()
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"{usd} is not an amount of money") from None
    # In integers, since decimal arithmetic would round what has more digits than its context.
    whole, rest = divmod(numerator * NANO_USD_PER_USD, denominator)
    if rest:
        raise ValueError(f"{usd} USD is finer than the smallest unit, 0.000000001 USD")
    return whole


def usd(amount_nano_usd: int) -> Decimal:
    """Return nano-USD as an exact amount in USD, for JSON and for people.

    >>> str(usd(597_600))
    '0.0005976'
    """
    amount = Decimal(amount_nano_usd).scaleb(-9)
    # Trailing zeros go, but 10 stays "10" rather than the "1E+1" that normalize() would make of it.
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount.normalize()
