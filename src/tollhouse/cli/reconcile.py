"""``tollhouse reconcile``: what a provider says it billed, beside what the ledger knows."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.reconciliation.model import UsageBucket

_HEADINGS = ("FROM", "TO", "MODEL", "COUNT", "EXPORT", "LEDGER", "UNCLAIMED", "RESOLVED")
_ADDED_UP = ("resolved", "taken")


@click.command(cls=Command)
@click.option("--provider", metavar="NAME", required=True, help="The provider, as it is configured.")
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Its own usage export, as JSON or CSV.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and tell what would be done.")
@click.pass_context
def reconcile(context: click.Context, provider: str, file: Path, dry_run: bool) -> None:
    """Match a provider's own usage export with the ledger.

    Calls of unknown outcome that it explains are resolved: billed as the provider counted them, or not at all. Exits
    with 1, and tells what differs, if something does that they cannot explain.
    """
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session
    from tollhouse.reconciliation.body import SentBucket

    options: Options = context.obj
    parts = list(_parts(_read(file)))
    reports = []
    with open_session(options) as session:
        for part in parts:
            body = {"provider": provider, "dry_run": dry_run, "buckets": [SentBucket.of(bucket) for bucket in part]}
            reports.append(session.request("POST", "/admin/reconciliations", body).value)
    report = _whole(reports)
    if options.as_json:
        print_json(report)
    else:
        _print(report)
    if any(bucket["outcome"] == "differs" for bucket in report["buckets"]):
        context.exit(1)


def _read(file: Path) -> list["UsageBucket"]:
    """Return the buckets of an export; raises StartError where it cannot be read as one."""
    from tollhouse.errors import StartError
    from tollhouse.reconciliation.exports import read_export

    try:
        buckets = read_export(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StartError(f"{file}: {error}") from error
    if not buckets:
        raise StartError(f"{file}: there is no usage of any model in it; expected a provider's usage export")
    return buckets


def _parts(buckets: Sequence["UsageBucket"]) -> Iterator[list["UsageBucket"]]:
    """Yield what fits into one request each, buckets of one span together, since their usage may be one model's."""
    from tollhouse.reconciliation.body import MAX_BUCKETS

    part: list[UsageBucket] = []
    by_span: dict[tuple[int, int], list[UsageBucket]] = {}
    for bucket in sorted(buckets, key=lambda each: (each.start_ms, each.end_ms)):
        by_span.setdefault((bucket.start_ms, bucket.end_ms), []).append(bucket)
    for together in by_span.values():
        if part and len(part) + len(together) > MAX_BUCKETS:
            yield part
            part = []
        part += together
    if part:
        yield part


def _whole(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the reports of an export's parts as one."""
    return {
        **reports[0],
        **{name: sum(report[name] for report in reports) for name in _ADDED_UP},
        "cost_usd": sum((Decimal(report["cost_usd"]) for report in reports), Decimal()),
        "buckets": [bucket for report in reports for bucket in report["buckets"]],
    }


def _print(report: dict[str, Any]) -> None:
    from tollhouse.cli.output import dollars, print_table

    told = [bucket for bucket in report["buckets"] if bucket["outcome"] != "agrees"]
    rows = [row for bucket in told for row in _rows(bucket)]
    if rows:
        print_table(_HEADINGS, rows, when_empty="")
        click.echo()
    for bucket in told:
        if bucket["reason"]:
            where = f"{bucket['model']}, {bucket['start']} to {bucket['end']}"
            click.echo(f"{where}: {bucket['outcome']}: {bucket['reason']}")
    verb = "would be resolved" if report["dry_run"] else "resolved"
    click.echo(
        f"{report['provider']}: {len(report['buckets'])} spans compared, {len(report['buckets']) - len(told)} agree; "
        f"{report['resolved']} calls of unknown outcome {verb}, at {dollars(report['cost_usd'])}."
    )
    if report["taken"]:
        click.echo(f"{report['taken']} more were resolved by somebody else meanwhile, or refused by the ledger.")


def _rows(bucket: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield a row for each count of a bucket in which one of the sides has something."""
    for count in bucket["counts"]:
        figures = (count["export"], count["ledger"], count["unclaimed"], count["resolved"])
        if any(figures):
            yield (bucket["start"], bucket["end"], bucket["model"], count["name"], *figures)
