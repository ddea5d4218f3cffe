"""``tollhouse schedules``: jobs and reports that are asked for again and again."""

import json
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import quote

import click

from tollhouse.cli.options import Group, Options

_HEADINGS = ("SCHEDULE", "NAME", "TENANT", "CRON", "TIME ZONE", "NEXT", "LAST JOB")


@click.group(cls=Group)
def schedules() -> None:
    """Have jobs and reports asked for again and again.

    What a schedule asks for is not shown.
    """


@schedules.command("list")
@click.option("--tenant", "tenant_id", metavar="ID", help="Only this tenant's.")
@click.pass_obj
def list_schedules(options: Options, tenant_id: str | None) -> None:
    """List schedules, the oldest first."""
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        found = session.request("GET", "/ai/schedules", query={"tenant_id": tenant_id})
    if options.as_json:
        print_json(found)
    else:
        print_table(_HEADINGS, map(_row, found.value["schedules"]), when_empty="No schedules.")


@schedules.command()
@click.option(
    "--cron", required=True, metavar="CRON", help='Five fields, such as "0 7 * * MON"; or @daily and the like.'
)
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Whose clock it goes by.")
@click.option("--name", default="", help="What to call it.")
@click.option("--job", type=click.File("rb"), metavar="FILE", help="JSON as POST /ai/jobs takes it; -: standard input.")
@click.option("--report", type=click.File("rb"), metavar="FILE", help="JSON as POST /reports/generate takes it.")
@click.pass_obj
def create(
    options: Options, cron: str, timezone: str, name: str, job: IO[bytes] | None, report: IO[bytes] | None
) -> None:
    """Create a schedule for a job or a report."""
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    if (job is None) == (report is None):
        raise click.UsageError("expected either --job or --report.")
    body: dict[str, object] = {"cron": cron, "timezone": timezone, "name": name}
    if job is not None:
        body["job"] = _read("--job", job)
    if report is not None:
        body["report"] = _read("--report", report)
    with open_session(options) as session:
        created = session.request("POST", "/ai/schedules", body)
    if options.as_json:
        print_json(created)
    else:
        click.echo(f"{created.value['schedule_id']} fires at {created.value['next_at']} for the first time.")


@schedules.command()
@click.argument("schedule_ids", metavar="SCHEDULE_ID...", nargs=-1, required=True)
@click.pass_obj
def delete(options: Options, schedule_ids: tuple[str, ...]) -> None:
    """Forget schedules; the jobs that they made go on."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        for schedule_id in schedule_ids:
            session.request("DELETE", f"/ai/schedules/{quote(schedule_id, safe='')}")
            click.echo(f"{schedule_id} is deleted.")


def _read(option: str, file: IO[bytes]) -> object:
    try:
        return json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file.name}: is no JSON: {error}", param_hint=option) from error


def _row(schedule: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        schedule["schedule_id"],
        schedule["name"],
        schedule["tenant_id"],
        schedule["cron"],
        schedule["timezone"],
        schedule["next_at"],
        schedule["last_job_id"],
    )
