"""What commands print: JSON as it came, or tables and sentences."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

import click
import msgspec

from tollhouse.cli.session import Answer

_GAP = "  "
_encoder = msgspec.json.Encoder(decimal_format="number")


def print_json(value: object) -> None:
    """Print JSON, indented; an answer's digits stay exactly as they came."""
    body = value.body if isinstance(value, Answer) else _encoder.encode(value)
    click.echo(msgspec.json.format(body, indent=2).decode())


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, when_empty: str) -> None:
    """Print aligned columns, those of numbers to the right; a sentence when there are no rows."""
    cells = [list(map(_text, row)) for row in rows]
    if not cells:
        click.echo(when_empty)
        return
    for line in table(headings, cells):
        click.echo(line)


def table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    columns = list(zip(headings, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    return [
        _GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_right, strict=True)
        ).rstrip()
        for line in [headings, *cells]
    ]


def dollars(amount_usd: Decimal | int) -> str:
    """Return an amount exactly, with two decimals at least.

    >>> dollars(Decimal("10")), dollars(Decimal("0.000598"))
    ('$10.00', '$0.000598')
    """
    text = f"{Decimal(amount_usd):f}"
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _text(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case Decimal():
            return f"{value:f}"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("$-").replace(".", "", 1).replace(",", "").isdigit()
