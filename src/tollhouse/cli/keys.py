"""``tollhouse key``: the keys that services call with."""

from decimal import Decimal

import click

from tollhouse.cli.amounts import USD
from tollhouse.cli.options import Group, Options
from tollhouse.cli.paths import path

_ROLES = ("service", "reader", "super-admin")
_HEADINGS = ("KEY ID", "SERVICE", "ROLE", "TENANTS", "FEATURE", "BUDGET/MONTH", "CREATED", "REVOKED")


@click.group(cls=Group)
def key() -> None:
    """Create, list and revoke service keys."""


@key.command("create")
@click.option("--service", required=True, help="The service that calls with it, as the ledger names it.")
@click.option("--tenant", "tenants", multiple=True, metavar="ID", help="A tenant it may act for; all if left out.")
@click.option(
    "--role", type=click.Choice(_ROLES), default="service", show_default=True, help="A reader may see usage, not call."
)
@click.option("--feature", metavar="SLUG", help="The feature its calls count as when they name none.")
@click.option("--budget-usd", type=USD, metavar="USD", help="The most it may spend in a month, over all tenants.")
@click.pass_obj
def create(
    options: Options,
    service: str,
    tenants: tuple[str, ...],
    role: str,
    feature: str | None,
    budget_usd: Decimal | None,
) -> None:
    """Create a key. It is shown this once: only a digest of it is stored."""
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    wanted = {
        "service": service,
        "role": role,
        "tenants": list(tenants) or None,
        "feature_slug": feature,
        "budget_usd": budget_usd,
    }
    with open_session(options) as session:
        answer = session.request("POST", "/admin/keys", wanted)
    if options.as_json:
        print_json(answer)
        return
    created = answer.value
    scope = f"tenant {', '.join(tenants)}" if tenants else "every tenant"
    click.echo(f"Key {created['key_id']} created for service {service} (role {role}, {scope}):")
    click.echo(f"\n    {created['key']}\n")
    click.echo("Keep it where the service finds it: it is not shown again.")


@key.command("list")
@click.pass_obj
def list_(options: Options) -> None:
    """List all keys, revoked ones too; never the keys themselves."""
    from tollhouse.cli.output import dollars, print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("GET", "/admin/keys")
    if options.as_json:
        print_json(answer)
        return
    rows = [
        (
            key["key_id"],
            key["service"],
            key["role"],
            "all" if key["tenants"] is None else key["tenants"],
            key["feature_slug"],
            None if key["budget_usd"] is None else dollars(key["budget_usd"]),
            key["created_at"],
            key["revoked_at"],
        )
        for key in answer.value["keys"]
    ]
    print_table(_HEADINGS, rows, when_empty="There are no keys yet; `tollhouse key create --service NAME` makes one.")


@key.command("revoke")
@click.argument("key_id")
@click.pass_obj
def revoke(options: Options, key_id: str) -> None:
    """Revoke a key: its next call is refused."""
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("DELETE", path("admin", "keys", key_id))
    if options.as_json:
        print_json(answer)
    else:
        click.echo(f"Key {key_id} is revoked.")
