"""``tollhouse verify``: the proof that the books are consistent."""

import re
from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.audit.chain import Head
    from tollhouse.ledger.verify import Report

_ANCHOR = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


def _anchor(_context: click.Context, _parameter: click.Parameter, text: str | None) -> "Head | None":
    if text is None:
        return None
    found = _ANCHOR.fullmatch(text)
    if found is None:
        raise click.BadParameter("expected ENTRIES:HASH, as an earlier verify has printed it")
    from tollhouse.audit.chain import Head

    return Head(int(found[1]), found[2])


@click.command(cls=Command)
@click.option(
    "--audit-anchor",
    metavar="ENTRIES:HASH",
    callback=_anchor,
    help="Where the audit log ended earlier, as verify printed it then: finds what was rewritten since.",
)
@click.pass_context
def verify(context: click.Context, audit_anchor: "Head | None") -> None:
    """Prove that the books are consistent, beside a running server too.

    The ledger's hash chains, the rollups, budgets and reservations are computed again from its rows, and the audit
    log's chain is followed. Exits with 1, and lists what does not fit, if something does not.
    """
    from tollhouse.cli.books import read_books
    from tollhouse.cli.output import print_json
    from tollhouse.ledger.verify import verify as verify_books

    options: Options = context.obj
    report = read_books(options.config().database, lambda connection: verify_books(connection, audit_anchor))
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
        f"reservations: {report.reservations}, audit entries: {report.audit_entries}"
    )
    if report.is_consistent:
        click.echo(f"Consistent ({looked_at}).")
        click.echo(f"The audit log's end, to be kept elsewhere: {report.audit_entries}:{report.audit_head}")
        return
    click.echo(f"NOT consistent ({looked_at}): {report.finding_count} things do not fit.\n")
    rows = [(finding.table, finding.row, finding.problem) for finding in report.findings]
    print_table(("TABLE", "ROW", "PROBLEM"), rows, when_empty="")
    if len(rows) < report.finding_count:
        click.echo(f"… and {report.finding_count - len(rows)} more")
