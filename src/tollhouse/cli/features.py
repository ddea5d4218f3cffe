"""``tollhouse feature``: switching features of tenants on and off."""

import click

from tollhouse.cli.options import Group, Options
from tollhouse.cli.paths import path


@click.group(cls=Group)
def feature() -> None:
    """Switch features of a tenant on and off.

    A feature that was never switched is on.
    """


@feature.command("enable")
@click.argument("tenant_id", metavar="TENANT")
@click.argument("slug")
@click.pass_obj
def enable(options: Options, tenant_id: str, slug: str) -> None:
    """Switch a feature on."""
    _switch(options, tenant_id, slug, is_enabled=True)


@feature.command("disable")
@click.argument("tenant_id", metavar="TENANT")
@click.argument("slug")
@click.pass_obj
def disable(options: Options, tenant_id: str, slug: str) -> None:
    """Switch a feature off: its calls are refused with 403."""
    _switch(options, tenant_id, slug, is_enabled=False)


@feature.command("list")
@click.argument("tenant_id", metavar="TENANT")
@click.pass_obj
def list_(options: Options, tenant_id: str) -> None:
    """List a tenant's features that were switched or capped."""
    from tollhouse.cli.output import dollars, print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("GET", path("admin", "tenants", tenant_id, "features"))
    if options.as_json:
        print_json(answer)
        return
    rows = [
        (
            feature["feature_slug"],
            feature["is_enabled"],
            None if feature["budget_usd"] is None else dollars(feature["budget_usd"]),
            feature["updated_at"],
        )
        for feature in answer.value["features"]
    ]
    empty = f"No feature of tenant {tenant_id} was ever switched: all are on."
    print_table(("FEATURE", "ENABLED", "BUDGET/MONTH", "CHANGED"), rows, when_empty=empty)


def _switch(options: Options, tenant_id: str, slug: str, *, is_enabled: bool) -> None:
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request(
            "PUT", path("admin", "tenants", tenant_id, "features", slug), {"is_enabled": is_enabled}
        )
    if options.as_json:
        print_json(answer)
    else:
        click.echo(f"Feature {slug} of tenant {tenant_id} is {'on' if is_enabled else 'off'}.")
