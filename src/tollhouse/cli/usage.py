"""``tollhouse usage``: what was used, and what it cost."""

from typing import Any

import click

from tollhouse.cli.options import Command, Options, Refused

_GROUPS = ("user", "feature", "model", "provider", "service", "day")
_HEADINGS = ("CALLS", "TOKENS", "INPUT", "CACHED", "OUTPUT", "COST", "UNKNOWN", "HELD")
_TENANT_HEADINGS = ("TENANT", "TIER", "BUDGET", "SPENT", "% USED", "RESERVED")
_EMPTY = "No calls in that month."


@click.command(cls=Command)
@click.option("--tenant", "tenant_id", metavar="ID", help="Whose usage; left out: what each tenant has spent.")
@click.option("--period", metavar="YYYY-MM", help="The month (UTC); the running one if left out.")
@click.option("--group-by", type=click.Choice(_GROUPS), help="A row for each; one total if left out.")
@click.pass_obj
def usage(options: Options, tenant_id: str | None, period: str | None, group_by: str | None) -> None:
    """Show a month's usage and what it cost.

    Of one tenant, or without --tenant what each tenant has spent of its budget.
    """
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    if tenant_id is None and group_by is not None:
        raise click.UsageError("--group-by needs --tenant")
    with open_session(options) as session:
        if tenant_id is None:
            answer = session.request("GET", "/ai/usage/tenants", query={"period": period})
        else:
            query = {"tenant_id": tenant_id, "period": period, "group_by": group_by}
            answer = session.request("GET", "/ai/usage", query=query)
    if options.as_json:
        print_json(answer)
    elif tenant_id is None:
        _print_tenants(answer.value)
    else:
        _print_usage(answer.value, group_by)


def _print_tenants(tenants: list[dict[str, Any]]) -> None:
    from tollhouse.cli.output import dollars, print_table

    rows = [
        (
            tenant["tenant_id"],
            tenant["tier"],
            dollars(tenant["budget_usd"]),
            dollars(tenant["spent_usd"]),
            tenant["pct_used"],
            dollars(tenant["reserved_usd"]),
        )
        for tenant in tenants
    ]
    print_table(_TENANT_HEADINGS, rows, when_empty="There are no tenants yet.")


def _print_usage(usage: dict[str, Any], group_by: str | None) -> None:
    from tollhouse.cli.output import print_table

    click.echo(f"Usage of tenant {usage['tenant_id']} in {usage['period']}:\n")
    if group_by is None:
        print_table(_HEADINGS, [_figures(usage)], when_empty=_EMPTY)
        return
    rows = [(_name(row, group_by), *_figures(row)) for row in usage[f"{group_by}s"]]
    print_table((group_by.upper(), *_HEADINGS), rows, when_empty=_EMPTY)


def _name(row: dict[str, Any], group_by: str) -> object:
    """Return what a row was grouped by: its one field that is no figure."""
    for field in (f"{group_by}_id", f"{group_by}_slug", group_by):
        if field in row:
            return row[field]
    raise Refused(f"the service answered rows without their {group_by}", 500)


def _figures(usage: dict[str, Any]) -> tuple[object, ...]:
    from tollhouse.cli.output import dollars

    return (
        usage["calls"],
        usage["tokens"],
        usage["input_tokens"],
        usage["cached_input_tokens"],
        usage["output_tokens"],
        dollars(usage["cost_usd"]),
        usage["unknown_calls"],
        dollars(usage["unknown_usd"]),
    )
