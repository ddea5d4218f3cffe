"""``tollhouse verify``: the proof that the books are consistent."""

from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.ledger.verify import Report


@click.command(cls=Command)
@click.pass_context
def verify(context: click.Context) -> None:
    """Prove that the books are consistent, beside a running server too.

    The ledger's hash chains, the rollups, budgets and reservations are computed again from its rows. Exits with 1, and
    lists what does not fit, if something does not.
    """
    from tollhouse.cli.books import read_books
    from tollhouse.cli.output import print_json
    from tollhouse.ledger.verify import verify as verify_books

    options: Options = context.obj
    report = read_books(options.config().database, verify_books)
    if options.as_json:
        print_json(report)
    else:
        _print(report)
    if not report.is_consistent:
        context.exit(1)


def _print(report: "Report") -> None:
    from tollhouse.cli.output import print_table

    looked_at = (
        f"ledger rows: {report.entries}, tenants: {report.tenants}, budgets: {report.budgets}, "
        f"reservations: {report.reservations}"
    )
    if report.is_consistent:
        click.echo(f"Consistent ({looked_at}).")
        return
    click.echo(f"NOT consistent ({looked_at}): {report.finding_count} things do not fit.\n")
    rows = [(finding.table, finding.row, finding.problem) for finding in report.findings]
    print_table(("TABLE", "ROW", "PROBLEM"), rows, when_empty="")
    if len(rows) < report.finding_count:
        click.echo(f"… and {report.finding_count - len(rows)} more")
