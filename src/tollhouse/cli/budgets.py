"""``tollhouse budget``: monthly caps for users, features and service keys, below the tenants' own."""

from decimal import Decimal
from typing import Any

import click

from tollhouse.cli.amounts import USD
from tollhouse.cli.options import Group, Options
from tollhouse.cli.paths import path


@click.group(cls=Group)
def budget() -> None:
    """Cap what a user, a feature or a service key may spend in a month.

    A tenant's own budget is set with `tollhouse tenant set`.
    """


def _of(command: Any) -> Any:
    """Add the options that say whose cap it is."""
    options = (
        click.option("--tenant", "tenant_id", metavar="ID", help="The tenant of the user or feature."),
        click.option("--user", "user_id", metavar="ID", help="A user of the tenant."),
        click.option("--feature", "feature_slug", metavar="SLUG", help="A feature of the tenant."),
        click.option("--key", "key_id", metavar="KEY_ID", help="A service key, over all its tenants."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@budget.command("set")
@_of
@click.option("--budget-usd", type=USD, metavar="USD", required=True, help="The most that may be spent in a month.")
@click.pass_obj
def set_(options: Options, /, budget_usd: Decimal, **whose: str | None) -> None:
    """Set a cap. It holds at once: what was spent earlier in the month counts."""
    from tollhouse.cli.output import dollars, print_json
    from tollhouse.cli.session import open_session

    address, name = _whose(**whose)
    with open_session(options) as session:
        answer = session.request("PUT", address, {"budget_usd": budget_usd})
    if options.as_json:
        print_json(answer)
        return
    state = answer.value
    click.echo(
        f"{name} may spend {dollars(state['budget_usd'])} a month; {dollars(state['spent_usd'])} of it is spent, "
        f"{dollars(state['reserved_usd'])} reserved."
    )


@budget.command("remove")
@_of
@click.pass_obj
def remove(options: Options, /, **whose: str | None) -> None:
    """Lift a cap."""
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    address, name = _whose(**whose)
    with open_session(options) as session:
        session.request("DELETE", address)
    if options.as_json:
        print_json({"removed": {name: value for name, value in whose.items() if value is not None}})
    else:
        click.echo(f"{name} has no cap of its own any more.")


@budget.command("list")
@click.option("--tenant", "tenant_id", metavar="ID", required=True, help="Whose budgets.")
@click.pass_obj
def list_(options: Options, tenant_id: str) -> None:
    """List a tenant's budgets of this month, its own first. A key's cap is in `tollhouse key list`."""
    from tollhouse.cli.output import dollars, print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("GET", path("admin", "tenants", tenant_id, "budgets"))
    if options.as_json:
        print_json(answer)
        return
    rows = [
        (
            budget["scope"],
            budget["scope_id"],
            dollars(budget["budget_usd"]),
            dollars(budget["spent_usd"]),
            dollars(budget["reserved_usd"]),
            dollars(budget["budget_usd"] - budget["spent_usd"] - budget["reserved_usd"]),
        )
        for budget in answer.value["budgets"]
    ]
    click.echo(f"Budgets of tenant {tenant_id} in {answer.value['period']}:\n")
    print_table(("OF", "ID", "BUDGET", "SPENT", "RESERVED", "LEFT"), rows, when_empty="none")


def _whose(
    *, tenant_id: str | None, user_id: str | None, feature_slug: str | None, key_id: str | None
) -> tuple[str, str]:
    """Return the address of a cap, and whose it is in words."""
    match tenant_id, user_id, feature_slug, key_id:
        case None, None, None, str():
            return path("admin", "keys", key_id, "budget"), f"Service key {key_id}"
        case str(), str(), None, None:
            return path("admin", "tenants", tenant_id, "budgets", "user", user_id), f"User {user_id}"
        case str(), None, str(), None:
            return path("admin", "tenants", tenant_id, "budgets", "feature", feature_slug), f"Feature {feature_slug}"
        case _:
            raise click.UsageError("expected --tenant with --user, --tenant with --feature, or --key alone")
