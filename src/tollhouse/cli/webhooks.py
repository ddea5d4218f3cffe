"""``tollhouse webhook``: the endpoints that events are sent to, and what became of what was sent."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from tollhouse.cli.options import Failure, Group, Options
from tollhouse.cli.paths import path
from tollhouse.kit.clock import SystemClock

if TYPE_CHECKING:
    from tollhouse.cli.session import Session

_PAGE = 1000
_STATES = ("waiting", "delivered", "dead")
_HEADINGS = ("ENDPOINT", "TENANT", "URL", "TYPES", "ENABLED", "FAILURES", "CREATED")
_DELIVERY_HEADINGS = ("DELIVERY", "ENDPOINT", "EVENT", "STATE", "ATTEMPTS", "NEXT", "STATUS", "PROBLEM")
_LOOK_AGAIN_S = 0.2


@click.group(cls=Group)
def webhook() -> None:
    """Make, test and look after endpoints that get events."""


@webhook.command("list")
@click.option("--tenant", "tenant_id", metavar="ID", help="Only this tenant's.")
@click.pass_obj
def list_(options: Options, tenant_id: str | None) -> None:
    """List the endpoints."""
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("GET", "/admin/webhooks", query={"tenant_id": tenant_id})
    if options.as_json:
        print_json(answer)
        return
    none = "There are no endpoints; `tollhouse webhook create URL` makes one."
    print_table(_HEADINGS, map(_row, answer.value["endpoints"]), when_empty=none)


@webhook.command()
@click.argument("url", required=False)
@click.option("--tenant", "tenant_id", metavar="ID", help="Whose events; those of all tenants if left out.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="A type of events to send; all if left out.")
@click.pass_obj
def create(options: Options, url: str | None, tenant_id: str | None, types: tuple[str, ...]) -> None:
    """Make an endpoint, which is sent what happens from now on.

    Without a URL it only signs what goes to the URLs that a tenant's jobs name. The secret is shown this once.
    """
    from tollhouse.cli.session import open_session

    wanted = {"url": url, "tenant_id": tenant_id, "types": list(types) or None}
    with open_session(options) as session:
        answer = session.request("POST", "/admin/webhooks", wanted)
    _print_secret(options, answer, f"Endpoint {answer.value['endpoint']['endpoint_id']} is made. It signs with")


@webhook.command()
@click.argument("endpoint_id")
@click.pass_obj
def rotate(options: Options, endpoint_id: str) -> None:
    """Give an endpoint a new secret; the one before signs too for a while."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("POST", _endpoint(endpoint_id, "rotate"))
    until = answer.value["endpoint"]["previous_secret_until"]
    _print_secret(options, answer, f"Endpoint {endpoint_id} signs with the secret before until {until}, and with")


@webhook.command()
@click.argument("endpoint_id")
@click.pass_obj
def enable(options: Options, endpoint_id: str) -> None:
    """Switch an endpoint on; what waits for it is sent."""
    _switch(options, endpoint_id, is_enabled=True)


@webhook.command()
@click.argument("endpoint_id")
@click.pass_obj
def disable(options: Options, endpoint_id: str) -> None:
    """Switch an endpoint off: events of that time are not sent to it, later ones are."""
    _switch(options, endpoint_id, is_enabled=False)


@webhook.command()
@click.argument("endpoint_id")
@click.pass_obj
def delete(options: Options, endpoint_id: str) -> None:
    """Delete an endpoint with all that was to be sent there."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        session.request("DELETE", _endpoint(endpoint_id))
    click.echo(f"Endpoint {endpoint_id} is deleted.")


@webhook.command()
@click.option("--state", type=click.Choice(_STATES), help="Only these; dead ones gave up.")
@click.option("--endpoint", "endpoint_id", metavar="ID", help="Only this endpoint's.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.pass_obj
def deliveries(options: Options, state: str | None, endpoint_id: str | None, limit: int) -> None:
    """List what was or is to be sent, the newest first."""
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    query = {"state": state, "endpoint_id": endpoint_id, "limit": min(limit, _PAGE)}
    with open_session(options) as session:
        found = session.pages(
            "/admin/webhook-deliveries", "deliveries", query, cursor=("before", "next_before"), most=limit
        )
    if options.as_json:
        print_json({"deliveries": found})
    else:
        print_table(_DELIVERY_HEADINGS, map(_delivery_row, found), when_empty="No such deliveries.")


@webhook.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def retry(options: Options, ids: tuple[str, ...]) -> None:
    """Have deliveries tried anew, or all dead ones of an endpoint (whe_…)."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        for each in ids:
            tried = session.request("POST", f"{_of(each)}/retry").value["deliveries"]
            click.echo(f"{each}: {tried} {'delivery is' if tried == 1 else 'deliveries are'} tried anew.")


@webhook.command()
@click.argument("delivery_ids", metavar="DELIVERY_ID...", nargs=-1, required=True)
@click.pass_obj
def drop(options: Options, delivery_ids: tuple[str, ...]) -> None:
    """Give up deliveries: they are not tried any more."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        for delivery_id in delivery_ids:
            session.request("DELETE", path("admin", "webhook-deliveries", delivery_id))
            click.echo(f"{delivery_id} is dropped.")


@webhook.command()
@click.argument("endpoint_id")
@click.option("--wait-s", type=click.FloatRange(min=0), default=20, show_default=True, help="How long to wait for it.")
@click.pass_obj
def test(options: Options, endpoint_id: str, wait_s: float) -> None:
    """Send a test event to an endpoint, and tell what came of it.

    It is sent by the running service, signed, and again until it arrives, as all others are.
    """
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        sent = session.request("POST", _endpoint(endpoint_id, "test")).value
        found = _wait_for_a_try(session, sent["delivery_id"], wait_s)
    if options.as_json:
        print_json(found)
    elif found["state"] == "delivered":
        click.echo(f"Delivered: the endpoint answered {found['last_status']}.")
    if found["state"] != "delivered":
        raise Failure(_why_not(found, wait_s))


def _wait_for_a_try(session: "Session", delivery_id: str, wait_s: float) -> Any:
    clock = SystemClock()
    until_s = clock.monotonic_s() + wait_s
    while True:
        found = session.request("GET", path("admin", "webhook-deliveries", delivery_id)).value
        if found["state"] != "waiting" or found["last_problem"] or clock.monotonic_s() >= until_s:
            return found
        time.sleep(_LOOK_AGAIN_S)


def _why_not(delivery: Mapping[str, Any], wait_s: float) -> str:
    if delivery["last_problem"]:
        again = f"; it is tried again at {delivery['next_at']}" if delivery["next_at"] else ""
        return f"the test event did not arrive: {delivery['last_problem']}{again}"
    return (
        f"the test event was not tried within {wait_s:g} s; it is sent by `tollhouse serve` or `tollhouse notifier`, "
        f"and `tollhouse webhook deliveries --endpoint {delivery['endpoint_id']}` shows what comes of it"
    )


def _switch(options: Options, endpoint_id: str, *, is_enabled: bool) -> None:
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        answer = session.request("PATCH", _endpoint(endpoint_id), {"is_enabled": is_enabled})
    if options.as_json:
        print_json(answer)
    else:
        click.echo(f"Endpoint {endpoint_id} is switched {'on' if is_enabled else 'off'}.")


def _print_secret(options: Options, answer: Any, sentence: str) -> None:
    from tollhouse.cli.output import print_json

    if options.as_json:
        print_json(answer)
        return
    click.echo(f"{sentence}:\n\n    {answer.value['secret']}\n")
    click.echo("Keep it where the receiver finds it: it is not shown again.")


def _endpoint(endpoint_id: str, *more: str) -> str:
    return path("admin", "webhooks", endpoint_id, *more)


def _of(identifier: str) -> str:
    """Return the address of a delivery or of an endpoint."""
    return path("admin", "webhooks" if identifier.startswith("whe_") else "webhook-deliveries", identifier)


def _row(endpoint: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        endpoint["endpoint_id"],
        "all" if endpoint["tenant_id"] is None else endpoint["tenant_id"],
        endpoint["url"],
        "all" if endpoint["types"] is None else endpoint["types"],
        endpoint["is_enabled"],
        endpoint["failures"],
        endpoint["created_at"],
    )


def _delivery_row(delivery: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        delivery["delivery_id"],
        delivery["endpoint_id"],
        delivery["event_type"],
        delivery["state"],
        delivery["attempts"],
        delivery["next_at"],
        delivery["last_status"],
        delivery["last_problem"],
    )
