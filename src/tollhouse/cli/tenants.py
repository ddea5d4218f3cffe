"""``tollhouse tenant``: whether and how far tenants may use AI."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from tollhouse.cli.amounts import USD
from tollhouse.cli.options import Group, Options, Refused
from tollhouse.cli.paths import path

if TYPE_CHECKING:
    from tollhouse.cli.session import Session

_PAGE = 500
_HEADINGS = ("TENANT", "NAME", "TIER", "ACTIVE", "EXPIRES", "BUDGET/MONTH", "BUDGET FROM")


@click.group(cls=Group)
def tenant() -> None:
    """Create, list and change tenants."""


@tenant.command("create")
@click.argument("tenant_id", metavar="ID")
@click.option("--name", help="A name for people.")
@click.option("--tier", help="The tier; [tenants] default_tier if left out.")
@click.option("--budget-usd", type=USD, metavar="USD", help="A monthly budget of its own; the tier's if left out.")
@click.option("--expires-at", metavar="TIME", help="When its AI module ends, such as 2026-12-31T23:59:59Z.")
@click.option("--inactive", is_flag=True, help="Leave its AI module switched off.")
@click.pass_obj
def create(options: Options, /, tenant_id: str, inactive: bool, **given: Any) -> None:
    """Create a tenant, and switch its AI module on."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        if session.find(path("admin", "tenants", tenant_id)) is not None:
            raise Refused(f"there is a tenant {tenant_id} already; `tollhouse tenant set {tenant_id}` changes it", 409)
        _put(options, session, tenant_id, _changes(given) | {"is_active": not inactive}, "created")


@tenant.command("set")
@click.argument("tenant_id", metavar="ID")
@click.option("--name", help="A name for people.")
@click.option("--tier", help="The tier; a budget that is the tier's follows.")
@click.option("--budget-usd", type=USD, metavar="USD", help="A monthly budget of its own.")
@click.option("--tier-budget", is_flag=True, help="The tier's monthly budget again, instead of one of its own.")
@click.option("--expires-at", metavar="TIME", help='When its AI module ends, such as 2026-12-31T23:59:59Z, or "never".')
@click.option("--active/--inactive", "is_active", default=None, help="Switch its AI module on or off.")
@click.pass_obj
def set_(options: Options, /, tenant_id: str, tier_budget: bool, budget_usd: Decimal | None, **given: Any) -> None:
    """Change a tenant. What is not given stays as it is; a budget holds at once."""
    from tollhouse.cli.session import open_session

    if tier_budget and budget_usd is not None:
        raise click.UsageError("--budget-usd and --tier-budget exclude each other")
    changes = _changes(given | {"budget_usd": budget_usd})
    if tier_budget:
        changes["budget_usd"] = None
    if not changes:
        raise click.UsageError("nothing to change: give at least one option")
    with open_session(options) as session:
        # Asked first, since changing a tenant that does not exist would create it.
        session.request("GET", path("admin", "tenants", tenant_id))
        _put(options, session, tenant_id, changes, "changed")


@tenant.command("list")
@click.pass_obj
def list_(options: Options) -> None:
    """List all tenants."""
    from tollhouse.cli.output import dollars, print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        tenants = session.pages("/admin/tenants", "tenants", {"limit": _PAGE}, cursor=("after", "next_after"))
    if options.as_json:
        print_json({"tenants": tenants})
        return
    rows = [
        (
            tenant["tenant_id"],
            tenant["name"],
            tenant["tier"],
            tenant["is_active"],
            tenant["expires_at"] or "never",
            dollars(tenant["budget_usd"]),
            "own" if tenant["has_own_budget"] else "tier",
        )
        for tenant in tenants
    ]
    print_table(_HEADINGS, rows, when_empty="There are no tenants yet; `tollhouse tenant create ID` makes one.")


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as the admin route takes them."""
    changes = {name: value for name, value in given.items() if value is not None}
    if changes.get("expires_at") == "never":
        changes["expires_at"] = None
    return changes


def _put(options: Options, session: "Session", tenant_id: str, changes: dict[str, Any], verb: str) -> None:
    from tollhouse.cli.output import dollars, print_json

    answer = session.request("PUT", path("admin", "tenants", tenant_id), changes)
    if options.as_json:
        print_json(answer)
        return
    tenant = answer.value
    state = "active" if tenant["is_active"] else "inactive"
    until = f" until {tenant['expires_at']}" if tenant["expires_at"] else ""
    click.echo(
        f"Tenant {tenant['tenant_id']} {verb}: tier {tenant['tier']}, {dollars(tenant['budget_usd'])} a month, "
        f"{state}{until}."
    )
