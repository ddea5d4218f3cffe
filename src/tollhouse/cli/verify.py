"""``tollhouse verify``: the proof that the books are consistent."""

from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.ledger.verify import Report


@click.command(cls=Command)
@click.pass_context
def verify(context: click.Context) -> None:
    """Prove ledger, rollups, budgets and reservations consistent, also beside a running server.

    Exits with 1, and lists what does not fit, if they are not.
    """
    import sqlalchemy as sa

    from tollhouse.cli.database_file import read_file
    from tollhouse.cli.output import print_json
    from tollhouse.ledger.verify import verify as verify_books
    from tollhouse.wiring import database_path

    options: Options = context.obj
    report = read_file(database_path(options.config()), verify_books)
    if options.as_json:
        print_json(report)
    else:
        _print(report)
    if not report.is_consistent:
        context.exit(1)
