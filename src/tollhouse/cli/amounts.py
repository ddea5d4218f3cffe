"""Amounts of money on the command line."""

from decimal import Decimal, InvalidOperation

import click


class Usd(click.ParamType[Decimal]):
    """An amount in USD, exact. What may be too much or too fine is for the service to say."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("nan")
        if not amount.is_finite():
            self.fail(f"{value!r}: expected an amount in USD, such as 10 or 0.50", param, ctx)
        return amount


USD = Usd()
